"""A reference: what a result holds, its floor, and its cache."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.backbones import Backbone, Pixels, Wrapped
from sparring.metrics import Reference
from sparring.metrics.frechet import frechet_of_features


def _images(n: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(n, 1, 8, 8, generator=generator) + shift).clamp(-1, 1)


class _Labelled(Backbone):
    """Pixels, and two classes by the sign of their mean."""

    name = "labelled"

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        mean = images.mean((1, 2, 3))
        return self(images), torch.stack([mean, -mean], 1)


def test_a_result_is_complete_and_json() -> None:
    reference = Reference(_images(60), _Labelled(), train=_images(90, 1))
    result = reference.evaluate(_images(40, 2, shift=0.3), pairs=3).to_json()
    assert set(result) == {
        *("frechet", "frechet_interval", "frechet_resamples", "kernel", "kernel_interval", "precision", "recall"),
        *(
            "density",
            "coverage",
            "rare_share",
            "n",
            "n_reference",
            "features",
            "resize",
            "features_accuracy",
            "class_histogram",
        ),
        *("class_histogram_reference", "class_coverage", "inception_score", "memorisation", "train_share"),
        *("train_share_expected", "closest_pairs", "floor"),
        *("nfe", "scheduler", "reference", "train"),  # for the evaluator to fill in
    }
    assert json.loads(json.dumps(result))["n"] == 40
    assert result["frechet_interval"][0] < result["frechet"] < result["frechet_interval"][1]
    assert result["frechet"] > result["floor"]["frechet"]
    assert (result["n"], result["n_reference"], result["features"]) == (40, 60, "labelled")
    assert sum(result["class_histogram"]) == 40
    assert result["class_histogram"][0] == 40
    assert result["train_share_expected"] == 0.6
    assert len(result["closest_pairs"]) == 3


def test_batches_are_one_set_and_no_option_changes_the_rest() -> None:
    reference = Reference(_images(60), Pixels())
    whole = reference.evaluate(_images(40, 2)).to_json()
    in_batches = reference.evaluate(iter(_images(40, 2).split(7))).to_json()
    assert in_batches["frechet"] == pytest.approx(whole["frechet"], rel=1e-6)
    assert in_batches["frechet_interval"] == pytest.approx(whole["frechet_interval"], rel=1e-6)
    short = reference.evaluate(_images(40, 2), bootstrap=0, floor=False).to_json()
    assert short.pop("frechet_interval") is None
    assert short == {name: whole[name] for name in short}
    assert "floor" not in short


def test_the_floor_is_real_against_real_at_the_same_n() -> None:
    train, held = _images(90, 1), _images(60)
    with_train = Reference(held, Pixels(pool=2), train=train)
    floor = with_train.floor(90)
    assert floor.frechet == pytest.approx(frechet_of_features(Pixels(pool=2)(train), Pixels(pool=2)(held)), rel=1e-5)
    assert (floor.n, floor.source) == (90, "train")
    assert with_train.floor(1000) == floor  # all there are, and it says how many
    assert with_train.floor(30).n == 30
    assert with_train.floor(30).frechet > floor.frechet
    halves = Reference(held, Pixels(pool=2)).floor(40)
    assert (halves.n, halves.source) == (30, "halves of the reference")
    assert Reference(held, Pixels(pool=2), train=train, alike=False).floor(40) == halves  # train is of other classes
    assert {"frechet", "kernel", "precision", "recall"} <= set(halves.to_json())


def test_reals_sit_on_the_floor_and_others_above() -> None:
    reference = Reference(_images(500), Pixels(pool=2), train=_images(500, 1))
    real, fake = reference.evaluate(_images(500, 2)), reference.evaluate(_images(500, 3, shift=0.1))
    assert real.frechet < 3 * real.floor.frechet < fake.frechet
    assert real.kernel_interval[0] < 0 < real.kernel_interval[1]
    assert fake.kernel_interval[0] > 0
    assert fake.floor == real.floor


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(images.flatten(1))


def test_the_cache_is_found_by_data_and_network(tmp_path: Path) -> None:
    net = _Counting()
    features = Wrapped(net=net, name="counting")
    first = Reference(_images(60), features, train=_images(60, 1), cache=tmp_path)
    assert net.calls == 2
    again = Reference(_images(60), features, train=_images(60, 1), cache=tmp_path)
    assert net.calls == 2
    fakes = _images(40, 2)
    assert again.evaluate(fakes) == first.evaluate(fakes)
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".safetensors"

    Reference(_images(60, 3), features, train=_images(60, 1), cache=tmp_path)
    Reference(_images(60), features, cache=tmp_path)
    before = net.linear.weight[0, 0].item()
    with torch.no_grad():
        net.linear.weight[0, 0] += 1
    Reference(_images(60), features, train=_images(60, 1), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4

    file.write_bytes(file.read_bytes()[:100])
    with torch.no_grad():
        net.linear.weight[0, 0] = before
    with pytest.raises(ValueError, match="delete the file"):
        Reference(_images(60), features, train=_images(60, 1), cache=tmp_path)
    with pytest.raises(ValueError, match="images as tensors"):
        Reference(iter([_images(60)]), features, cache=tmp_path)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="reference has 5 images"):
        Reference(_images(5), Pixels())
    with pytest.raises(ValueError, match="5 fakes"):
        Reference(_images(20), Pixels()).evaluate(_images(5))
