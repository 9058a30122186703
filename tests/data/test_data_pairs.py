"""Data sets of two images a row: pairs stay together, domains are mixed, and a place in the stream decides it all."""

import datasets
import jsonargparse
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sparring.data import (
    BatchStream,
    Digits,
    HubData,
    ImageData,
    ImageFolder,
    PairedColumns,
    PairedFolders,
    StoredImages,
    UnpairedColumns,
    UnpairedData,
    decode,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(number: int) -> Image.Image:
    """Its brightness is its number; its left half is black."""
    pixels = np.full((4, 4), number, np.uint8)
    pixels[:, :2] = 0
    return Image.fromarray(pixels)


def numbers(images: torch.Tensor) -> list[int]:
    return ((images.amax((1, 2, 3)) + 1) * 127.5).round().int().tolist()


def turned(images: torch.Tensor) -> list[bool]:
    """Which images were turned left to right: their right half is black."""
    return (images[:, 0, 0, 3] == -1).tolist()


@pytest.fixture
def parquet(tmp_path) -> str:
    """30 pairs: target k has the brightness k + 1, its source k + 101."""
    rows = {
        "source": [picture(number + 101) for number in range(30)],
        "target": [picture(number + 1) for number in range(30)],
        "text": [f"number {number}" for number in range(30)],
        "group": [f"{number // 2}-x" for number in range(30)],
    }
    columns = {"source": datasets.Image(), "target": datasets.Image()}
    columns |= {"text": datasets.Value("string"), "group": datasets.Value("string")}
    datasets.Dataset.from_dict(rows, datasets.Features(columns)).to_parquet(tmp_path / "pairs.parquet")
    return str(tmp_path / "pairs.parquet")


def folder(path, count: int, first: int, suffix: str = "png") -> str:
    for number in range(count):
        (path / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(first + number).save(path / f"{number % 2}" / f"{number:02d}.{suffix}")
    return str(path)


def drawn(data: ImageData, start: int, count: int, **place) -> list[tuple[list[int], list[int]]]:
    """The numbers of the images and sources of some batches of a stream."""
    stream = iter(BatchStream(data.order(), 6, 5, start, **place))
    batches = [next(stream) for _ in range(count)]
    return [(numbers(data[batch][0]), numbers(data.sources(batch))) for batch in batches]


@pytest.mark.parametrize("stored", [True, False])
def test_two_columns_of_a_table(parquet, monkeypatch, stored):
    if not stored:
        monkeypatch.setattr(decode, "STORED_BYTES", 1)
    data = PairedColumns(parquet, text_column="text", flip=True)
    assert (len(data), data.name, data.image_shape, data.source_shape) == (30, "pairs", (1, 4, 4), (1, 4, 4))
    images, captions = data[[7, 3]]
    assert numbers(images) == [8, 4]
    assert captions == ["number 7", "number 3"]
    assert numbers(data.sources([7, 3])) == [108, 104]
    batch = BatchStream(data.order(), 30, 1).batch(0)
    assert numbers(data.sources(batch)) == [number + 100 for number in numbers(data[batch][0])]
    assert turned(data[batch][0]) == turned(data.sources(batch)) == batch.mirrored
    assert 5 < sum(batch.mirrored) < 25
    assert data.holdout() is None


def test_a_holdout_of_pairs(parquet):
    data = PairedColumns(parquet, holdout_share=0.3, group_column="group", group_separator="-", flip=True)
    other = data.holdout()
    for part in (data, other):
        everything = list(range(len(part)))
        assert numbers(part.sources(everything)) == [number + 100 for number in numbers(part[everything][0])]
    sides = [{(number - 1) // 2 for number in numbers(part.images())} for part in (data, other)]
    assert not sides[0] & sides[1]
    assert len(data) + len(other) == 30
    assert other.holdout() is None


def test_emoji_of_two_years(shared):
    path = str(shared / "data" / "noto_emoji_pairs-64.parquet")
    data = PairedColumns(path, where={"kind": "keycap"}, size=16, text_column="text")
    assert data.source_shape == data.image_shape == (3, 16, 16)
    target = HubData(path, where={"kind": "keycap"}, size=16, image_column="target")
    source = HubData(path, where={"kind": "keycap"}, size=16, image_column="source")
    everything = list(range(len(data)))
    assert len(everything) > 5
    assert torch.equal(data.images(), target.images())
    assert torch.equal(data.sources(everything), source.images())
    assert all("keycap" in caption for caption in data.captions())


def test_two_folders_whose_names_match(tmp_path):
    target, source = folder(tmp_path / "a", 10, 1), folder(tmp_path / "b", 10, 101, "bmp")
    data = PairedFolders(target, source, holdout_share=0.3)
    for part in (data, data.holdout()):
        everything = list(range(len(part)))
        assert numbers(part.sources(everything)) == [number + 100 for number in numbers(part[everything][0])]
    assert len(data) + len(data.holdout()) == 10
    assert data.holdout().holdout() is None
    (tmp_path / "a" / "0" / "00.png").unlink()
    (tmp_path / "b" / "1" / "01.bmp").unlink()
    message = r"2 of 18 images of a and b have no partner in the other, such as 1/01; add or remove them, or set"
    with pytest.raises(ValueError, match=message):
        PairedFolders(target, source)
    with pytest.warns(UserWarning, match="2 of 18 images of a and b .*; they are left out"):
        data = PairedFolders(target, source, on_error="skip")
    assert numbers(data.images()) == [3, 5, 7, 9, 4, 6, 8, 10]
    assert numbers(data.sources(range(8))) == [103, 105, 107, 109, 104, 106, 108, 110]
    with pytest.raises(ValueError, match="14 of 14 images .* no partner in the other, such as 0/02; nothing is left"):
        PairedFolders(target, f"{source}/0")
    picture(5).save(tmp_path / "a" / "0" / "02.bmp")
    with pytest.raises(ValueError, match="a has two images called 0/02"):
        PairedFolders(target, source)


def test_an_image_that_breaks_takes_its_partner_along(tmp_path, parquet, monkeypatch):
    target, source = folder(tmp_path / "a", 10, 1), folder(tmp_path / "b", 10, 101)
    broken = tmp_path / "b" / "0" / "04.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="1 of 10 images of b cannot be used"),
        pytest.warns(UserWarning, match="1 of 19 images of a and b have no partner in the other, such as 0/04"),
    ):
        data = PairedFolders(target, source, on_error="skip")
    assert 5 not in numbers(data.images())
    assert numbers(data.sources(range(9))) == [number + 100 for number in numbers(data.images())]
    broken.write_bytes(whole[:45])  # its header is whole: it breaks when it comes up, and nothing may take its place
    monkeypatch.setattr(decode, "STORED_BYTES", 1)
    data = PairedFolders(target, source, on_error="skip")
    with pytest.raises(ValueError, match=r"0/04.png .*; repair or remove it and start again"):
        data.sources([2])


def two_domains(kind: str, tmp_path, parquet: str) -> UnpairedData | UnpairedColumns:
    if kind == "columns":
        return UnpairedColumns(parquet, flip=True)
    return UnpairedData(folder(tmp_path / "a", 10, 1), folder(tmp_path / "b", 7, 101), flip=True)


@pytest.mark.parametrize("kind", ["columns", "folders"])
def test_two_domains(tmp_path, parquet, kind):
    data = two_domains(kind, tmp_path, parquet)
    size, other = (15, 15) if kind == "columns" else (10, 7)
    assert len(data) == size
    assert data.source_shape == (1, 4, 4)
    expected = drawn(data, 0, 24)
    images = sum((pair[0] for pair in expected), [])
    sources = sum((pair[1] for pair in expected), [])
    assert len(set(images)) == size
    for epoch in range(144 // other):  # each image of the source once per epoch of its own, in another order each time
        assert len(set(sources[epoch * other : (epoch + 1) * other])) == other
    assert sources[:other] != sources[other : 2 * other]
    assert drawn(two_domains(kind, tmp_path, parquet), 7, 17) == expected[7:]
    halves = [drawn(data, 0, 24, rank=rank, world=2) for rank in range(2)]
    assert [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*halves, strict=True)] == expected
    micro = drawn(data, 0, 48, accumulation=2)
    assert [(a[0] + b[0], a[1] + b[1]) for a, b in zip(micro[::2], micro[1::2], strict=True)] == expected
    pairs = set(zip(images, sources, strict=True))
    assert len(pairs) > 0.6 * 144 / 2  # a partner is another one each time
    if kind == "columns":
        assert not {number + 100 for number in images} & set(sources)
    first, second = BatchStream(data.order(), 60, 3).batch(0), BatchStream(data.order(), 60, 3).batch(1)
    for batch in (first, second):
        assert turned(data[batch][0]) == batch.mirrored
        assert 15 < sum(turned(data.sources(batch))) < 45
        assert turned(data.sources(batch)) != batch.mirrored
    assert not any(turned(data.sources(range(len(data)))))
    loader = DataLoader(data, sampler=BatchStream(data.order(), 6, 5), batch_size=None, num_workers=1)
    assert numbers(next(iter(loader))[0]) == expected[0][0]


def test_the_holdout_of_two_domains(tmp_path, parquet):
    target, source = folder(tmp_path / "a", 20, 1), folder(tmp_path / "b", 20, 101)
    data = UnpairedData(target, source, holdout_share=0.4)
    other = data.holdout()
    assert len(data) + len(other) == 20
    assert not set(numbers(data.sources(range(20)))) & set(numbers(other.sources(range(20))))
    columns = UnpairedColumns(parquet, holdout_share=0.4).holdout()
    everything = list(range(len(columns)))
    assert numbers(columns.sources(everything)) == [number + 100 for number in numbers(columns.images())]
    one_sided = UnpairedData.of(ImageFolder(target, holdout_share=0.4), ImageFolder(source))
    assert numbers(one_sided.holdout().sources([0])) == [101]
    assert UnpairedData(target, source).holdout() is None


def test_domains_of_other_kinds():
    data = UnpairedData("digits", "digits:holdout")
    assert (len(data), data.num_classes, data.source_shape) == (1000, 10, (1, 8, 8))
    assert torch.equal(data.sources([0, 500]), Digits("holdout")[[0, 0]][0])
    assert torch.equal(data.labels(), Digits().labels())


def test_tensors_with_sources():
    images, sources = torch.arange(12.0).reshape(3, 1, 2, 2) / 12, torch.zeros(3, 3, 1, 1)
    data = StoredImages(images, sources=sources)
    assert data.source_shape == (3, 1, 1)
    assert data.sources([2, 0]).shape == (2, 3, 1, 1)
    assert StoredImages(images).sources([0]) is None
    assert StoredImages(images).source_shape is None
    turning = StoredImages(images, sources=images, flip=True)
    batch = BatchStream(turning.order(), 8, 0).batch(0)
    assert torch.equal(turning[batch][0], turning.sources(batch))
    with pytest.raises(ValueError, match=r"`sources` has the shape \(2, 3, 1, 1\): give one image .* of 3"):
        StoredImages(images, sources=sources[:2])


def test_mistakes_are_named(tmp_path, parquet):
    for make, message in (
        (lambda: PairedColumns(parquet, source_column="text"), "`image_column=text`: columns with images: source, t"),
        (lambda: UnpairedData("digits", "digit"), "`digit` is no data set: give digits"),
        (lambda: UnpairedData("digits", "ring", size=4), "`size` is not a setting of digits"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_built_from_a_recipe(tmp_path, parquet):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    flags = ["--data=sparring.data.PairedColumns", f"--data.path={parquet}", "--data.size=2"]
    data = parser.instantiate(parser.parse_args(flags)).data
    assert (len(data), data.source_shape) == (30, (1, 2, 2))
    flags = ["--data=sparring.data.UnpairedData", "--data.path=digits", "--data.source=digits:holdout"]
    data = parser.instantiate(parser.parse_args(flags)).data
    assert (len(data), data.source_shape) == (1000, (1, 8, 8))
    with pytest.raises((jsonargparse.ArgumentError, TypeError, ValueError)):
        parser.parse_args(["--data=sparring.data.pairs.Pairs"])
