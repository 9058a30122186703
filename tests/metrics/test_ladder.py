"""A ladder of known damage: every number ranks it as its definition says, and is blind where it must be."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from sparring.backbones import Backbone, Pixels
from sparring.metrics import Reference, learned_features


def _blur(images: Tensor, weight: float) -> Tensor:
    """A 3x3 kernel with `weight` on the neighbours, edges repeated."""
    kernel = torch.full((1, 1, 3, 3), weight / 8)
    kernel[0, 0, 1, 1] = 1 - weight
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)


Ladder = dict[str, dict[str, Any]]


def _arms(pool: Tensor, labels: Tensor, train: Tensor, n: int) -> dict[str, Tensor]:
    real = pool[:n]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    arms = {
        "real": real,
        "light blur": _blur(real, 0.3),
        "heavy blur": _blur(_blur(real, 0.8), 0.8),
        "noise": (real + 0.4 * noise).clamp(-1, 1),
        "dropped": pool[labels >= 3][:n],
        "duplicates": real[: n // 10].repeat(10, 1, 1, 1),
        "copies": train[:n],
    }
    assert all(len(fakes) == n for fakes in arms.values())
    return arms


@pytest.fixture(scope="module")
def ladders() -> dict[str, Ladder]:
    digits = load_digits()
    images = torch.tensor(digits.images).float()[:, None] / 8 - 1
    labels = torch.tensor(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held, pool = (images[rows] for rows in order.split([750, 500, 547]))
    train_labels, held_labels, pool_labels = (labels[rows] for rows in order.split([750, 500, 547]))
    arms = _arms(pool, pool_labels, train, 340)
    classifier = learned_features(train, train_labels, holdout=(held, held_labels), widths=(16, 32), epochs=6, seed=0)
    assert classifier.accuracy > 0.8
    ladders: dict[str, Ladder] = {}
    spaces: list[Backbone] = [Pixels(pool=4), Pixels(pool=None), classifier]
    for features in spaces:
        reference = Reference(held, features, train=train)
        ladders[features.name] = {arm: reference.evaluate(fakes, bootstrap=0).to_json() for arm, fakes in arms.items()}
    return ladders


SPACES = ["pixels pooled to 4x4", "pixels", "classifier 16-32 (seed 0)"]


@pytest.mark.parametrize("space", SPACES)
def test_distances_rank_the_damage(ladders: dict[str, Ladder], space: str) -> None:
    ladder = ladders[space]
    frechet = {arm: result["frechet"] for arm, result in ladder.items()}
    assert frechet["real"] < 2 * ladder["real"]["floor"]["frechet"]
    assert frechet["real"] < frechet["light blur"] < frechet["heavy blur"]
    assert frechet["real"] < min(frechet["dropped"], frechet["duplicates"])
    assert frechet["copies"] < 1.3 * ladder["copies"]["floor"]["frechet"]  # no distance between laws sees copies
    kernel = {arm: result["kernel"] for arm, result in ladder.items()}
    assert kernel["light blur"] < kernel["heavy blur"]
    assert kernel["real"] < min(kernel["heavy blur"], kernel["dropped"], kernel["duplicates"])
    assert ladder["heavy blur"]["kernel_interval"][0] > 0
    if space != "pixels pooled to 4x4":  # the mean of four pixels halves the noise
        assert frechet["noise"] > 1.3 * frechet["real"]


@pytest.mark.parametrize("space", SPACES)
def test_fidelity_and_variety_are_told_apart(ladders: dict[str, Ladder], space: str) -> None:
    ladder = ladders[space]
    real = ladder["real"]
    assert ladder["dropped"]["precision"] > real["precision"] - 0.06  # no image is bad
    assert ladder["dropped"]["recall"] < real["recall"]
    assert ladder["dropped"]["coverage"] < real["coverage"] - 0.1
    assert ladder["duplicates"]["precision"] > real["precision"] - 0.1
    assert ladder["duplicates"]["recall"] < 0.2  # ten equal images have radius 0
    assert ladder["duplicates"]["coverage"] < 0.6 * real["coverage"]
    assert ladder["heavy blur"]["coverage"] < real["coverage"] - 0.1
    assert abs(ladder["copies"]["recall"] - real["recall"]) < 0.12
    if space == "pixels":
        assert ladder["noise"]["precision"] < 0.5 * real["precision"]
        assert ladder["noise"]["density"] < 0.3 * real["density"]


@pytest.mark.parametrize("space", SPACES)
def test_only_copies_look_like_copies(ladders: dict[str, Ladder], space: str) -> None:
    ladder = ladders[space]
    assert ladder["copies"]["memorisation"] == 0
    assert ladder["copies"]["train_share"] == 1
    assert [fake for fake, _, distance in ladder["copies"]["closest_pairs"] if distance > 0] == []
    assert ladder["real"]["memorisation"] == pytest.approx(1, abs=0.06)
    for arm in ("real", "light blur", "heavy blur", "noise", "dropped"):  # 0.6 expected, sd 0.027 at n = 340
        assert ladder[arm]["train_share"] == pytest.approx(0.6, abs=0.12)


def test_classes_are_counted(ladders: dict[str, Ladder]) -> None:
    ladder = ladders["classifier 16-32 (seed 0)"]
    assert ladder["real"]["class_coverage"] == 1
    assert ladder["copies"]["class_coverage"] == 1
    assert ladder["dropped"]["class_coverage"] == pytest.approx(0.7)
    assert sum(ladder["dropped"]["class_histogram"][:3]) < 0.06 * 340
    assert ladder["dropped"]["inception_score"] < ladder["real"]["inception_score"]
    assert ladder["heavy blur"]["inception_score"] < ladder["real"]["inception_score"]


def test_fashion_mnist_in_pixels(shared: Path) -> None:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(shared / "data" / "fashion_mnist-test.parquet")
    rows = next(file.iter_batches(3300)).to_pydict()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in rows["image"]])
    images, labels = torch.from_numpy(pixels).float()[:, None] / 127.5 - 1, torch.tensor(rows["label"])
    train, reference, pool = images.split([1300, 1000, 1000])
    arms = _arms(pool, labels[2300:], train, 600)
    measured = Reference(reference, Pixels(pool=14), train=train)
    ladder = {arm: measured.evaluate(fakes, bootstrap=0).to_json() for arm, fakes in arms.items()}
    frechet = {arm: result["frechet"] for arm, result in ladder.items()}
    assert frechet["real"] < 1.3 * ladder["real"]["floor"]["frechet"]
    assert frechet["copies"] < 1.3 * ladder["real"]["floor"]["frechet"]
    assert frechet["real"] < frechet["light blur"] < frechet["heavy blur"] < frechet["noise"]
    assert 1.5 * frechet["real"] < min(frechet["dropped"], frechet["duplicates"])
    assert ladder["noise"]["precision"] < 0.8 * ladder["real"]["precision"]
    assert ladder["dropped"]["coverage"] < ladder["real"]["coverage"] - 0.05
    assert ladder["duplicates"]["recall"] < 0.2
    assert ladder["copies"]["memorisation"] == 0
    expected = ladder["real"]["train_share_expected"]
    assert ladder["copies"]["train_share"] == 1
    for arm in ("real", "light blur", "heavy blur", "noise", "dropped"):
        assert ladder[arm]["train_share"] == pytest.approx(expected, abs=0.09)
