"""Shards: every image once per epoch with what belongs to it, little read and little held, any place at once."""

import copy
import io
import pickle
import tarfile
from itertools import islice

import datasets
import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from sparring.data import BatchStream, StreamData, from_spec, shards, stream
from sparring.data.order import ShuffledGroups

N, GROUP = 60, 10


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(number: int, side: int = 4) -> bytes:
    """A grey image whose brightness is its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), number, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def rows_of(first: int, n: int) -> dict:
    numbers = range(first, first + n)
    return {
        "image": [{"bytes": png(number), "path": None} for number in numbers],
        "text": [f"number {number}" for number in numbers],
        "label": [number % 3 for number in numbers],
    }


def write_parquet(path, first=0, n=N, change=None) -> str:
    features = {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names="abc")}
    rows = rows_of(first, n)
    if change:
        change(rows)
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(path, batch_size=GROUP)
    return str(path)


def write_tar(path, members: dict[str, bytes | tarfile.TarInfo]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


def members_of(first: int, n: int) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in range(first, first + n):
        members[f"{number:03d}.txt"] = f"number {number}".encode()
        members[f"{number:03d}.png"] = png(number)
        members[f"{number:03d}.cls"] = str(number % 3).encode()
    return members


@pytest.fixture(params=["parquet", "tar"])
def path(request, tmp_path) -> str:
    """60 numbered images: two parquet files of three row groups each, or six tar files."""
    if request.param == "parquet":
        for number in range(2):
            write_parquet(tmp_path / f"{number}.parquet", number * 30, 30)
        return str(tmp_path / "*.parquet")
    for number in range(6):
        write_tar(tmp_path / f"{number}.tar", members_of(number * GROUP, GROUP))
    return str(tmp_path / "*.tar")


def column(path: str, kind: str) -> str:
    return {"text": "txt", "label": "cls"}[kind] if path.endswith(".tar") else kind


def numbers(images: torch.Tensor) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def batches(data, count: int, workers: int = 0, batch_size: int = 8, **place) -> list[list[int]]:
    """Which images the first batches hold."""
    order = BatchStream(data.order(), batch_size, 3, **place)
    loader = DataLoader(data, sampler=order, batch_size=None, num_workers=workers)
    return [numbers(images) for images, _ in islice(loader, count)]


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(sizes=sizes, buffer=st.integers(1, 40), seed=st.integers(0, 9), epoch=st.integers(0, 3), data=st.data())
def test_an_epoch_holds_every_row_once_and_few_groups_at_a_time(sizes, buffer, seed, epoch, data):
    order = ShuffledGroups(sizes, buffer)
    n = len(order)
    whole = order.rows(seed, epoch, 0, n)
    assert sorted(whole) == list(range(n))
    first = data.draw(st.integers(0, n))
    end = data.draw(st.integers(first, n))
    assert ShuffledGroups(sizes, buffer).rows(seed, epoch, first, end) == whole[first:end]
    group_of = np.repeat(np.arange(len(sizes)), sizes)[whole]
    places = [np.flatnonzero(group_of == group) for group in range(len(sizes))]
    for place in range(n):  # the groups that have begun and have not ended
        opened = [group for group, at in enumerate(places) if at[0] <= place <= at[-1]]
        assert sum(sizes[group] for group in opened) < buffer + max(sizes)


def test_mixing_is_that_of_the_buffer():
    order = ShuffledGroups([10] * 100, 100)
    rows = np.array(order.rows(0, 0, 0, 1000))
    assert len(np.unique(rows[:100] // 10)) == 10
    assert not np.array_equal(rows[:100], np.sort(rows[:100]))
    assert order.rows(0, 1, 0, 1000) != rows.tolist()
    assert order.rows(1, 0, 0, 1000) != rows.tolist()
    assert np.corrcoef(rows, np.arange(1000))[0, 1] < 0.3


def test_every_image_comes_once_with_its_label_and_caption(path):
    plain = StreamData(path, shuffle_buffer=20)
    assert (len(plain), plain.image_shape, plain.num_classes, plain.text) == (N, (3, 4, 4), None, False)
    assert plain.labels() is None
    assert plain.captions() is None
    assert sorted(sum(batches(plain, 6, batch_size=10), [])) == list(range(N))
    assert numbers(plain.images()) == list(range(N))
    few = numbers(plain.images(25, seed=4))
    assert len(set(few)) == 25
    texts = StreamData(path, text_column=column(path, "text"), channels=1, shuffle_buffer=20)
    assert texts.text
    assert texts.captions() == [f"number {number}" for number in range(N)]
    assert texts.captions(25, seed=4) == [f"number {number}" for number in few]
    images, captions = texts[[3, 50, 11]]
    assert numbers(images) == [3, 50, 11]
    assert captions == ["number 3", "number 50", "number 11"]
    classes = None if path.endswith(".parquet") else 3
    labelled = StreamData(path, label_column=column(path, "label"), num_classes=classes, size=2, pad=1)
    assert labelled.image_shape == (3, 4, 4)
    assert labelled.num_classes == 3
    assert labelled[[3, 50]][1].tolist() == [0, 2]
    assert labelled.labels().dtype == torch.int64
    assert labelled.labels().tolist() == [number % 3 for number in range(N)]


def test_any_number_of_workers_and_processes_and_any_start_gives_the_same_batches(path):
    data = StreamData(path, shuffle_buffer=20)
    expected = batches(data, 12)
    assert len({tuple(batch) for batch in expected}) == 12
    assert batches(data, 12, workers=2) == expected
    assert batches(StreamData(path, shuffle_buffer=20), 5, workers=1, start=7) == expected[7:]
    halves = [batches(StreamData(path, shuffle_buffer=20), 12, rank=rank, world=2) for rank in range(2)]
    assert [one + other for one, other in zip(*halves, strict=True)] == expected
    assert batches(copy.deepcopy(data), 12) == expected
    assert pickle.dumps(data)  # what a worker that is started anew is sent


def test_what_is_read_and_held_is_bounded(path, monkeypatch):
    opened, decoded = [], []
    for kind in (shards.ParquetShards, shards.TarShards):
        inner = kind.open
        monkeypatch.setattr(kind, "open", lambda self, group, inner=inner: opened.append(group) or inner(self, group))
    inner_decode = stream.decode_into
    monkeypatch.setattr(stream, "decode_into", lambda *args: decoded.append(1) or inner_decode(*args))
    data = StreamData(path, size=4, shuffle_buffer=20)
    assert (opened, decoded) == ([], [])
    order = BatchStream(data.order(), 4, 3, start=8)
    for count, batch in enumerate(islice(order, 30), 1):
        data[batch]
        assert len(decoded) == 4 * count
        assert data._window.rows_held() <= 30
        if count == 1:
            assert len(opened) <= 3
    assert len(opened) <= 2 * 6 + 2  # two epochs and a bit: each group once per epoch, no matter how often it is asked
    data.images(8, seed=1)
    assert len(opened) <= 2 * 6 + 2 + 2


def test_images_of_a_tar_stay_on_the_disk(tmp_path, monkeypatch):
    side = 256
    noise = np.random.default_rng(0).integers(0, 256, (side, side)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    path = write_tar(tmp_path / "big.tar", {f"{number}.png": buffer.getvalue() for number in range(20)})
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            found = super().read(size)
            read.append(len(found))
            return found

    monkeypatch.setattr(tarfile, "bltn_open", lambda name, mode: Counted(name, "r"))
    data = StreamData(path, size=8)
    assert 20 * 512 <= sum(read) < 0.05 * 20 * len(buffer.getvalue())
    assert len(data) == 20
    assert data[[7]][0].shape == (1, 3, 8, 8)


def test_the_same_rows_as_datasets_reads(path):
    kind = "webdataset" if path.endswith(".tar") else "parquet"
    theirs = datasets.load_dataset(kind, data_files=path, split="train", streaming=True)
    ours = StreamData(path, text_column=column(path, "text"))
    captions = [row[column(path, "text")] for row in theirs]
    assert captions == ours.captions()


def test_flips_and_holdout(path):
    data = StreamData(path, flip=True, holdout=path, text_column=column(path, "text"), channels=1, shuffle_buffer=20)
    held_out = data.holdout()
    assert not held_out.flip
    assert held_out.captions() == data.captions()
    assert held_out.holdout() is None
    assert StreamData(path).holdout() is None


def test_images_that_cannot_be_used(tmp_path):
    def spoil(rows):
        rows["image"][1] = {"bytes": b"nothing", "path": None}
        rows["image"][2] = {"bytes": None, "path": str(tmp_path / "secret.png")}
        rows["text"][3] = "  "
        rows["text"][4] = None
        rows["image"][5] = {"bytes": png(9, side=5), "path": None}

    (tmp_path / "secret.png").write_bytes(png(200))
    path = write_parquet(tmp_path / "set.parquet", 0, 20, spoil)
    data = StreamData(path, text_column="text")
    reasons = {
        1: "not an image",
        2: "no image bytes",
        3: "no caption",
        4: "no caption",
        5: "5x5 pixels, .*: set `size`",
    }
    for row, why in reasons.items():
        message = rf"image {row} of set.parquet, row group 0 cannot be used \({why}.*; repair or remove it, or set"
        with pytest.raises(ValueError, match=message) as caught:
            data[[row]]
        assert "\n" not in str(caught.value)
    lenient = StreamData(path, text_column="text", on_error="skip")
    with pytest.warns(UserWarning, match="the next one takes its place"):
        images, captions = lenient[[0, 1, 5]]
    assert numbers(images) == [0, 6, 6]
    assert captions == ["number 0", "number 6", "number 6"]
    with pytest.warns(UserWarning, match="takes its place"):
        assert lenient.captions()[:8] == [f"number {number}" for number in (0, 6, 6, 6, 6, 6, 6, 7)]


def test_a_tar_full_of_tricks(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(200))
    link, hard = tarfile.TarInfo("1.png"), tarfile.TarInfo("2.png")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    hard.type, hard.linkname = tarfile.LNKTYPE, "../secret.png"
    members = {"1.png": link, "2.png": hard, "../../3.png": png(3), "/4.png": png(4), "5.txt": b"alone"}
    members |= {".6.png": png(6), "folder/7.seg.png": png(8), "folder/7.PNG": png(7), "8.exe": b"MZ"}
    before = sorted(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="set.tar are left out: 2 that are links, such as 1.png$"):
        data = StreamData(write_tar(tmp_path / "set.tar", members))
    assert numbers(data.images()) == [3, 4, 7]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "set.tar"])
    with pytest.warns(UserWarning, match="left out: 2 that do not end in .seg.png, such as ../../3.png, 2 that are"):
        assert numbers(StreamData(str(tmp_path / "set.tar"), image_column="seg.png").images()) == [8]


@pytest.mark.parametrize("text", [None, "txt"])
def test_a_tar_made_on_a_mac(tmp_path, text):
    members: dict[str, bytes] = {}
    for name, content in members_of(0, 3).items():
        members |= {f"./._{name}": b"Mac OS X", f"./{name}": content}
    data = StreamData(write_tar(tmp_path / "set.tar", members), text_column=text)
    assert numbers(data.images()) == [0, 1, 2]
    assert data.captions() == (["number 0", "number 1", "number 2"] if text else None)


def test_names_with_dots_in_a_tar(tmp_path):
    members = {"a/22.05.png": png(1), "a/22.05.txt": b"one", "a/22.06.png": png(2), "a/22.06.txt": b"two"}
    members |= {"b.v1.0 final.JPG": png(3), "b.v1.0 final.txt": b"three", "c.png": png(4), "c.seg.png": png(9)}
    path = write_tar(tmp_path / "set.tar", members | {"c.txt": b"four"})
    data = StreamData(path, text_column="txt")
    assert numbers(data.images()) == [1, 2, 3, 4]
    assert data.captions() == ["one", "two", "three", "four"]
    with pytest.warns(UserWarning, match="left out: 3 that do not end in .seg.png"):
        assert numbers(StreamData(path, image_column="seg.png").images()) == [9]


def test_images_of_a_tar_that_cannot_be_read_are_counted(tmp_path):
    members = members_of(0, 2) | {"photo.heic": b"no", "drawing.svg": b"no", "notes.txt": b"no image"}
    path = write_tar(tmp_path / "set.tar", members)
    message = "set.tar are left out: 2 in a format that Pillow does not read here, such as drawing.svg$"
    with pytest.warns(UserWarning, match=message):
        assert len(StreamData(path)) == 2


def test_a_tar_that_is_not_sorted(tmp_path):
    members = members_of(0, 3)
    order = sorted(members, key=lambda name: name[::-1])
    path = write_tar(tmp_path / "set.tar", {name: members[name] for name in order})
    assert sorted(numbers(StreamData(path).images())) == [0, 1, 2]
    message = r"set.tar: the files of 00\d do not follow each other, .* their .txt cannot be .*: sort the tar by name"
    with pytest.raises(ValueError, match=message):
        StreamData(path, text_column="txt")


def test_a_caption_that_is_missing_in_a_tar_is_named(tmp_path):
    members = members_of(0, 3)
    del members["001.txt"]
    data = StreamData(write_tar(tmp_path / "set.tar", members), text_column="txt")
    with pytest.raises(ValueError, match=r"image 1 of set.tar, 001.png, cannot be used \(no caption\)"):
        data[[1]]


def test_labels_of_a_tar_that_are_none(tmp_path):
    members = {"0.png": png(0), "0.cls": b"2", "1.png": png(1), "1.cls": b"3", "2.png": png(2), "2.cls": b"cat"}
    data = StreamData(write_tar(tmp_path / "set.tar", members | {"3.png": png(3)}), label_column="cls", num_classes=3)
    for row, why in {1: "label 3 is none of 3 classes", 2: "label 'cat' is not a number", 3: "no label"}.items():
        with pytest.raises(ValueError, match=rf"image {row} of set.tar, {row}.png, cannot be used \({why}\)"):
            data[[row]]


def test_parquet_shards_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "REMOTE", ("memory",))
    with fsspec.open("memory://set/0.parquet", "wb") as file:
        file.write((tmp_path / write_parquet(tmp_path / "0.parquet")).read_bytes())
    data = StreamData("memory://set/*.parquet", shuffle_buffer=20)
    assert numbers(data[[59, 0]][0]) == [59, 0]
    with pytest.raises(ValueError, match="tar files are read from a disk"):
        StreamData("memory://set/*.tar")


@pytest.mark.parametrize(
    ("given_path", "arguments", "message"),
    [
        ("none*.tar", {}, "`path=.*none.*.tar`: no such file"),
        ("set.zip", {}, "must end in .parquet or .tar"),
        ("https://x.org/0.parquet", {}, "shards lie on a disk, or at hf://, s3://, gs://"),
        ("hf://x::file://etc/0.parquet", {}, "shards lie on a disk"),
        ("set.parquet", {"image_column": "text"}, "`image_column=text`: columns with images: image; all columns"),
        ("set.parquet", {"text_column": "words"}, "`text_column` names the column words, which is not there: image, t"),
        ("set.parquet", {"text_column": "label"}, "`text_column=label` holds ClassLabel.*; captions are strings"),
        ("set.parquet", {"label_column": "text"}, "`label_column=text` holds .*; labels of shards are numbers"),
        ("set.parquet", {"label_column": "label", "text_column": "text"}, "a network takes one of them"),
        ("set.parquet", {"num_classes": 3}, "`num_classes=3` must be at least 1 and belongs to `label_column`"),
        ("set.parquet", {"shuffle_buffer": 0}, "`shuffle_buffer=0` must be at least 1"),
        ("set.parquet", {"pad": -1}, "`pad=-1` must not be negative"),
        ("set.tar", {"label_column": "cls"}, "`num_classes` is needed: .* for `label_column=cls`"),
        ("set.tar", {"image_column": "jpg"}, "the shards hold no images"),
        ("broken.parquet", {}, "broken.parquet cannot be read: .*"),
        ("broken.tar", {}, "broken.tar cannot be read: .*"),
        ("cut.tar", {}, "cut.tar cannot be read: unexpected end of data"),
        ("?et.parquet", {"text_column": "text"}, "wet.parquet has no column text, which .*set.parquet has"),
    ],
)
def test_mistakes_are_named(tmp_path, given_path, arguments, message):
    write_parquet(tmp_path / "set.parquet", 0, 3)
    whole = write_tar(tmp_path / "set.tar", members_of(0, 3))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "broken.tar").write_bytes(b"not a tar")
    with open(whole, "rb") as file:
        (tmp_path / "cut.tar").write_bytes(file.read()[:2000])
    if given_path.startswith("?"):
        datasets.load_dataset("parquet", data_files=str(tmp_path / "set.parquet"), split="train").remove_columns(
            "text"
        ).to_parquet(tmp_path / "wet.parquet")
    there = given_path if "://" in given_path else str(tmp_path / given_path)
    with pytest.raises(ValueError, match=message) as caught:
        StreamData(there, **arguments)
    assert "\n" not in str(caught.value)


def test_one_word_for_tar_files(path):
    if path.endswith(".tar"):
        assert isinstance(from_spec(path, size=4), StreamData)


@pytest.fixture(scope="module")
def whole_shards(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    paths = [write_parquet(folder / "0.parquet", 0, 12), write_tar(folder / "0.tar", members_of(0, 12))]
    return {path[path.rindex(".") :]: open(path, "rb").read() for path in paths}  # noqa: SIM115


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([".parquet", ".tar"]),
    place=st.floats(0, 1),
    change=st.binary(max_size=40),
    cut=st.booleans(),
    text=st.booleans(),
)
def test_damaged_shards_are_one_line(tmp_path_factory, whole_shards, kind, place, change, cut, text):
    whole = whole_shards[kind]
    at = int(place * len(whole))
    path = tmp_path_factory.mktemp("damaged") / f"0{kind}"
    path.write_bytes(whole[:at] + change + (b"" if cut else whole[at + len(change) :]))
    told = ""
    try:
        data = StreamData(str(path), text_column=column(str(path), "text") if text else None)
        data.images()
        data.captions()
    except ValueError as error:
        told = str(error)
    assert "\n" not in told
