"""Digits, toy densities and tensors as data sets; names for data sets."""

import math
import subprocess
import sys

import pytest
import torch

from sparring.data import (
    Checkerboard,
    Digits,
    GaussianGrid,
    GaussianMixture,
    ImageData,
    StoredImages,
    SwissRoll,
    from_spec,
    named,
)


def test_digits_parts_are_disjoint_and_together_everything():
    parts = [Digits(split) for split in ("train", "validation", "holdout")]
    assert [len(part) for part in parts] == [1000, 297, 500]
    rows = torch.cat([part.images() for part in parts]).flatten(1)
    everything = Digits("all").images().flatten(1)
    assert len(everything) == 1797
    assert torch.equal(rows.unique(dim=0), everything.unique(dim=0))
    assert len(rows.unique(dim=0)) == 1797


def test_digits_parts_hold_each_class_in_the_same_share():
    shares = Digits("all").labels().bincount() / 1797
    for split in ("train", "validation", "holdout"):
        part = Digits(split)
        assert (part.labels().bincount() - shares * len(part)).abs().max() < 1.5
    rest = torch.cat([Digits("validation").labels(), Digits("holdout").labels()])
    assert (rest.bincount() - shares * 797).abs().max() < 1.5


def test_digits_values_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = Digits("all")
    images, labels = data[list(range(len(data)))]
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.aminmax() == (-1, 1)
    original = load_digits()
    key = {(image.tobytes(), label) for image, label in zip(original.images, original.target, strict=True)}
    back = ((images[:, 0].double() + 1) * 8).numpy()
    assert all((image.tobytes(), int(label)) in key for image, label in zip(back, labels, strict=True))


def test_digits_facts():
    data = Digits()
    assert data.name == "digits"
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.class_names == list("0123456789")
    assert data.holdout().split == "holdout"
    assert data.holdout().name == "digits:holdout"
    assert Digits("holdout").holdout() is None
    with pytest.raises(ValueError, match="`split=test` is not a split of digits: train, validation, holdout, all"):
        Digits("test")


def test_a_sample_is_fixed_and_its_labels_belong_to_it():
    data = Digits()
    images, labels = data.images(50), data.labels(50)
    assert torch.equal(images, data.images(60)[:50])
    assert not torch.equal(images, data.images(50, seed=1))
    everything = {tuple(image.flatten().tolist()): int(label) for image, label in zip(*data[range(1000)], strict=True)}
    assert [everything[tuple(image.flatten().tolist())] for image in images] == labels.tolist()
    assert len(data.images()) == 1000
    for n in (0, 1001):
        with pytest.raises(ValueError, match=f"{n} images asked of digits, which has 1000"):
            data.images(n)


def test_uint8_covers_exactly_minus_one_to_one():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    values = StoredImages(images).images().flatten().double()
    torch.testing.assert_close(values, torch.linspace(-1, 1, 256, dtype=torch.float64), rtol=0, atol=1e-6)
    assert values[0] == -1
    assert values[-1] == 1


def test_stored_images_are_checked():
    with pytest.raises(ValueError, match=r"`images` has the shape \(3, 4\)"):
        StoredImages(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="give one label for each of 2 images"):
        StoredImages(torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64))


def test_an_own_data_set_needs_two_methods():
    class Stripes(ImageData):
        name, image_shape = "stripes", (1, 2, 2)

        def __len__(self):
            return 5

        def __getitem__(self, indices):
            return torch.tensor(indices).float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), None

    data = Stripes()
    assert data.images()[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.images(2).shape == (2, 1, 2, 2)
    assert data.labels() is None
    assert data.holdout() is None


def test_the_mixture_is_what_it_says():
    data = GaussianMixture(modes=5, std=0.03, num_samples=20_000, seed=4)
    points, labels = data.images().flatten(1), data.labels()
    assert data.image_shape == (2, 1, 1)
    assert data.num_classes == 5
    torch.testing.assert_close(data.centres.norm(dim=1), torch.full((5,), 0.75))
    for mode in range(5):
        own = points[labels == mode]
        assert abs(len(own) / 20_000 - 0.2) < 0.02
        torch.testing.assert_close(own.mean(0), data.centres[mode], rtol=0, atol=0.003)
        torch.testing.assert_close(own.std(0), torch.full((2,), 0.03), rtol=0.05, atol=0)


def test_the_grid_is_what_it_says():
    data = GaussianGrid(num_samples=25_000)
    points, labels = data.images().flatten(1), data.labels()
    assert (data.name, data.num_classes, data.std) == ("grid25", 25, 0.02)
    line = [-0.8, -0.4, 0.0, 0.4, 0.8]
    torch.testing.assert_close(data.centres, torch.tensor([[x, y] for x in line for y in line]))
    assert (labels.bincount(minlength=25) - 1000).abs().max() < 150
    offsets = points - data.centres[labels]
    assert offsets.mean(0).abs().max() < 0.001
    torch.testing.assert_close(offsets.std(0), torch.full((2,), 0.02), rtol=0.02, atol=0)
    assert torch.equal(torch.cdist(points, data.centres).argmin(1), labels)
    assert len(GaussianGrid(side=2, extent=0.5, std=0.1).centres) == 4


def test_the_swiss_roll_lies_on_its_spiral():
    points = SwissRoll(noise=0.0, num_samples=500).images().flatten(1)
    radius = points.norm(dim=1)
    angle = radius / 0.9 * 4.5 * math.pi
    torch.testing.assert_close(points, torch.stack([radius * angle.cos(), radius * angle.sin()], 1), rtol=0, atol=1e-5)
    assert radius.min() >= 0.3 - 1e-6
    assert radius.max() <= 0.9 + 1e-6


def test_the_checkerboard_has_eight_equal_fields():
    points = Checkerboard(num_samples=8000).images().flatten(1)
    assert points.abs().max() <= 1
    fields = ((points + 1) * 2).floor().long().clamp(max=3)
    assert (fields.sum(1) % 2 == 0).all()
    counts = (fields[:, 0] * 4 + fields[:, 1]).bincount(minlength=16)
    assert (counts[counts > 0] - 1000).abs().max() < 150
    assert (counts > 0).sum() == 8


@pytest.mark.parametrize("kind", [GaussianMixture, GaussianGrid, SwissRoll, Checkerboard])
def test_toys_are_seeded_and_their_holdout_is_fresh(kind):
    first, again, other = kind(num_samples=50), kind(num_samples=50), kind(num_samples=50, seed=1)
    assert torch.equal(first.images(), again.images())
    samples = [first.images(), other.images(), first.holdout().images(), first.sample(50, 0), first.sample(50, 1)]
    assert all(sample.shape == (50, 2, 1, 1) for sample in samples)
    assert len({str(sample.tolist()) for sample in samples}) == len(samples)
    assert torch.equal(first.holdout().images(), first.holdout().images())
    assert type(first.holdout()) is kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(modes=0), "`modes=0`"),
        (lambda: GaussianMixture(std=0.0), "`std=0.0`"),
        (lambda: GaussianGrid(side=1), "`side=1`"),
        (lambda: GaussianGrid(std=0.0), "`std=0.0`"),
        (lambda: SwissRoll(noise=-1.0), "`noise=-1.0`"),
        (lambda: Checkerboard(num_samples=0), "`num_samples=0`"),
    ],
)
def test_toy_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_of_data_sets():
    assert len(from_spec("digits")) == 1000
    assert len(from_spec("digits:holdout", size=None)) == 500
    assert len(from_spec("ring", modes=3).centres) == 3
    assert from_spec("grid25", std=0.05).std == 0.05
    assert from_spec("swissroll").name == "swissroll"
    assert from_spec("checkerboard").name == "checkerboard"
    assert named("digits:holdout") == (Digits, {"split": "holdout"})
    assert named("missing.parquet")[1] == {"path": "missing.parquet"}  # nothing is read


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("digit", {}, "`digit` is no data set: give digits, digits:holdout, ring"),
        ("digits:test", {}, "`split=test` is not a split"),
        ("digits", {"size": 16}, "`size` is not a setting of digits, which has: split"),
        ("missing/folder", {}, "a folder that exists"),
        ("missing.parquet", {}, "`path=missing.parquet`: no such parquet file"),
    ],
)
def test_wrong_names_of_data_sets_are_named(spec, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_spec(spec, **settings)
    assert "\n" not in str(caught.value)


def test_importing_data_loads_no_image_library():
    heavy = ("datasets", "PIL", "sklearn", "pyarrow", "diffusers", "transformers")
    code = f"import sys, sparring.data; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_first_digits_hold_every_digit():
    few, whole = Digits(limit=100), Digits()
    rows = list(range(100))
    assert len(few) == 100
    assert torch.equal(few[rows][0], whole[rows][0])
    counts = few[rows][1].bincount(minlength=10)
    assert counts.min() >= 8
    assert counts.max() <= 12
    assert len(few.holdout()) == 500
    with pytest.raises(ValueError, match="`limit=0` must be at least 1"):
        Digits(limit=0)


def test_digits_of_some_numbers_keep_their_numbers():
    data, everything = Digits(only=[5, 7]), Digits()
    assert data.num_classes == 10
    assert data.labels().unique().tolist() == [5, 7]
    assert torch.equal(data.images(), everything.images()[torch.isin(everything.labels(), torch.tensor([5, 7]))])
    assert data.holdout().labels().unique().tolist() == [5, 7]
    for only in ([], [10]):
        with pytest.raises(ValueError, match="`only="):
            Digits(only=only)


def test_digits_of_some_classes_in_a_ratio():
    data = Digits(classes=[7, 0], ratio=[1, 9])
    held_out = data.holdout()
    for part, whole in ((data, Digits()), (held_out, Digits("holdout"))):
        assert (part.num_classes, part.class_names) == (2, ["7", "0"])
        sevens, zeros = torch.bincount(part.labels()).tolist()
        assert zeros == 9 * sevens > 0
        every = zip(whole.images().flatten(1).tolist(), whole.labels().tolist(), strict=True)
        digit = {tuple(image): label for image, label in every}
        found = [digit[tuple(image)] for image in part.images().flatten(1).tolist()]
        assert found == [(7, 0)[label] for label in part.labels()]
    assert len(Digits(classes=[3])) == (Digits().labels() == 3).sum()
    assert torch.equal(Digits().images(), Digits(classes=[*range(10)]).images())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": [1, 1]}, r"`classes=\[1, 1\]` must be different digits"),
        ({"classes": [10]}, r"`classes=\[10\]` must be different digits"),
        ({"classes": [0, 1], "ratio": [1]}, r"`ratio=\[1\]` must give a number from 1 on"),
    ],
)
def test_classes_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Digits(**settings)
