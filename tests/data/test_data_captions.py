"""Captions: where they come from, that they stay with their images, and what is said where they are missing."""

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sparring.data import BatchStream, Digits, HubData, ImageFolder, decode

WORDS = ["a red square", "a blue dot", "two lines", "nothing at all"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Four grey images whose brightness is their number, in two subfolders."""
    for number in range(4):
        place = tmp_path / "set" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    return tmp_path / "set"


def parquet(path, texts, **columns) -> str:
    rows = {"image": [picture(number) for number in range(len(texts))], "text": texts, **columns}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({k: rows[k] for k in ("image", "text")}, features)
    for name, cells in columns.items():
        table = table.add_column(name, cells)
    table.to_parquet(path)
    return str(path)


def numbers(images: torch.Tensor) -> list[int]:
    """Which picture each image is."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def check_belong_together(data) -> None:
    assert data.text
    assert data.num_classes is None
    assert data.labels() is None
    assert [WORDS[number] for number in numbers(data.images())] == data.captions()
    assert [WORDS[number] for number in numbers(data.images(2, seed=5))] == data.captions(2, seed=5)
    images, captions = data[[1, 0]]
    assert captions == [WORDS[number] for number in numbers(images)]


@pytest.mark.parametrize("stored", [True, False])
def test_a_column_of_captions(tmp_path, monkeypatch, stored):
    if not stored:
        monkeypatch.setattr(decode, "STORED_BYTES", 1)
    path = parquet(tmp_path / "set.parquet", WORDS, label=[0, 1, 0, 1])
    data = HubData(path, text_column="text")
    check_belong_together(data)
    check_belong_together(HubData(path, text_column="text", where={"label": 0}, limit=3, holdout=path).holdout())
    for workers in (0, 1):
        loader = DataLoader(data, sampler=BatchStream(4, 3, seed=1), batch_size=None, num_workers=workers)
        images, captions = next(iter(loader))
        assert captions == [WORDS[number] for number in numbers(images)]


def test_captions_in_a_metadata_file(folder):
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(4)]
    lines = [json.dumps({"file_name": f"./{name}", "text": text}) for name, text in zip(names, WORDS, strict=True)]
    (folder / "metadata.jsonl").write_text("\n".join(lines[::-1]) + "\n\n")
    check_belong_together(ImageFolder(str(folder), captions=True))
    check_belong_together(ImageFolder(str(folder), captions=True, holdout=str(folder)).holdout())
    (folder / "metadata.jsonl").unlink()
    lines = [f'"{text}, in words",{name}' for name, text in zip(names, WORDS, strict=True)]
    (folder / "metadata.csv").write_text("\n".join(["text,file_name", *lines]))
    data = ImageFolder(str(folder), captions=True)
    assert data.captions() == [f"{WORDS[number]}, in words" for number in numbers(data.images())]
    assert not ImageFolder(str(folder)).text


def test_captions_in_text_files(folder):
    for number, text in enumerate(WORDS):
        (folder / "ab"[number % 2] / f"{number}.txt").write_text(f"{text}\n")
    check_belong_together(ImageFolder(str(folder), captions=True))


def test_images_without_a_caption_are_named_or_left_out(tmp_path, folder):
    path = parquet(tmp_path / "set.parquet", ["a red square", None, "  ", "nothing at all"])
    message = r"2 of 4 images of set cannot be used: row 1 \(no caption\), row 2 \(no caption\); repair or remove them"
    with pytest.raises(ValueError, match=message):
        HubData(path, text_column="text")
    with pytest.warns(UserWarning, match="2 of 4"):
        check = HubData(path, text_column="text", on_error="skip")
    assert check.captions() == ["a red square", "nothing at all"]
    assert numbers(check.images()) == [0, 3]
    (folder / "a" / "0.txt").write_text("a red square")
    with pytest.raises(ValueError, match=r"3 of 4 images of set cannot be used: a/2.png \(no caption\), b/1.png"):
        ImageFolder(str(folder), captions=True)
    with pytest.raises(ValueError, match="2 of 2 images of set:1 cannot be used: .*; nothing is left"):
        HubData(parquet(tmp_path / "set:1.parquet", [None, ""]), text_column="text")


def test_captions_outside_the_folder_are_not_read(tmp_path, folder):
    (tmp_path / "secret.txt").write_text("secret")
    line = json.dumps({"file_name": "a/0.png", "text": "secret"})
    (tmp_path / "metadata.jsonl").write_text(line)
    for number in range(4):
        (folder / "ab"[number % 2] / f"{number}.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "metadata.jsonl").symlink_to(tmp_path / "metadata.jsonl")
    with pytest.raises(ValueError, match=r"`captions=True`: .* has no metadata.jsonl or metadata.csv .* no .txt"):
        ImageFolder(str(folder), captions=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "a/0.png", "text": 5}', "metadata.jsonl: row 1 needs `file_name` and"),
        ("metadata.jsonl", b'{"file_name": "a/0.png", "text": "x"}\n[1]', "row 2 needs `file_name` and `text`"),
        ("metadata.jsonl", b"{", "row 1 needs"),
        ("metadata.jsonl", b"[" * 100_000, "row 1 needs"),
        ("metadata.jsonl", b"\xff", "metadata.jsonl cannot be read: .*utf-8"),
        ("metadata.csv", b"image,text\na/0.png,x\n", "metadata.csv: row 1 needs `file_name` and `text`"),
        ("metadata.csv", b"file_name,text\na/0.png\n", "metadata.csv: row 1 needs `file_name` and `text`"),
        ("a/0.txt", b"\xff\xfe", "0.txt cannot be read: .*utf-8"),
    ],
)
def test_files_that_are_no_captions(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        ImageFolder(str(folder), captions=True)
    assert "\n" not in str(caught.value)


def test_two_metadata_files_are_refused(folder):
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).write_text("")
    with pytest.raises(ValueError, match="metadata.jsonl and metadata.csv: keep the one"):
        ImageFolder(str(folder), captions=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "words"}, "`text_column` names the column words, which is not there: image, text, label"),
        ({"text_column": "label"}, "`text_column=label` holds Value.*int64.*; captions are strings"),
        (
            {"text_column": "text", "label_column": "label"},
            "`label_column=label` and `text_column=text`: a network takes",
        ),
        ({"group_column": "label"}, "`group_column=label` belongs to `holdout_share`"),
        (
            {"holdout_share": 0.5, "group_separator": "-"},
            "`group_separator=-` belongs to `group_column`, which says what it cuts",
        ),
        ({"holdout_share": 1.5}, "`holdout_share=1.5` must lie between 0 and 1"),
        ({"holdout_share": 0.5, "holdout": "test"}, "`holdout_share=0.5` and `holdout=test`: give one"),
        ({"holdout_share": 0.5, "group_column": "kind"}, "`group_column` names the column kind, which is not there"),
        ({"holdout_share": 0.01}, "`holdout_share=0.01` leaves no row to hold out: 4 rows in too few groups"),
    ],
)
def test_mistakes_are_named(tmp_path, settings, message):
    path = parquet(tmp_path / "set.parquet", WORDS, label=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=message) as caught:
        HubData(path, **settings)
    assert "\n" not in str(caught.value)


def test_a_folder_without_captions_is_told_where_they_go(folder):
    with pytest.raises(ValueError, match=r"`text_column=text`: .* images without captions: write a metadata.jsonl"):
        HubData(str(folder), text_column="text")
    for nothing in ("", "\n"):
        (folder / "metadata.jsonl").write_text(nothing)
        with pytest.raises(ValueError, match=r"cannot be read: .*metadata.jsonl is empty$"):
            HubData(str(folder), text_column="text")


def test_labels_and_captions_at_once_are_refused(folder):
    with pytest.raises(ValueError, match="`labels=True` and `captions=True`"):
        ImageFolder(str(folder), labels=True, captions=True)


def test_without_captions():
    assert Digits().captions() is None
    assert not Digits().text


def test_rows_of_a_group_stay_on_one_side(tmp_path):
    groups = [f"{number // 3:x}-{number % 3}" for number in range(60)]
    path = parquet(tmp_path / "set.parquet", [f"number {number}" for number in range(60)], group=groups)
    settings = dict(text_column="text", holdout_share=0.3, group_column="group", group_separator="-")
    data = HubData(path, **settings)
    held_out = data.holdout()
    assert sorted(data.captions() + held_out.captions()) == sorted(f"number {number}" for number in range(60))
    sides = [{number // 3 for number in numbers(side.images())} for side in (data, held_out)]
    assert not sides[0] & sides[1]
    assert 2 <= len(sides[1]) <= 10
    assert held_out.captions() == [f"number {number}" for number in numbers(held_out.images())]
    assert held_out.holdout() is None
    assert not held_out.flip
    few = HubData(path, **settings, limit=5)
    assert len(few) == 5
    assert few.holdout().captions() == held_out.captions()
    whole = HubData(path, text_column="text", holdout_share=0.3, group_column="group")
    assert {number // 3 for number in numbers(whole.images())} & {
        number // 3 for number in numbers(whole.holdout().images())
    }
    rows = HubData(path, text_column="text", holdout_share=0.3)
    assert len(rows) + len(rows.holdout()) == 60


def test_an_empty_group_is_named(tmp_path):
    path = parquet(tmp_path / "set.parquet", WORDS, group=["a", None, "b", "c"])
    with pytest.raises(ValueError, match="`group_column=group`: row 1 is in no group"):
        HubData(path, holdout_share=0.5, group_column="group")


def test_no_emoji_has_its_variants_on_both_sides(shared, monkeypatch):
    monkeypatch.setattr(decode, "STORED_BYTES", 1)
    path = str(shared / "data" / "noto_emoji-64.parquet")
    settings = dict(text_column="text", size=4, holdout_share=0.1, group_column="codepoints", group_separator="-")
    data = HubData(path, **settings)
    held_out = data.holdout()
    table = pq.read_table(path, columns=["codepoints", "text"]).to_pylist()
    first = [{table[row]["codepoints"].split("-")[0] for row in side._rows} for side in (data, held_out)]
    assert not first[0] & first[1]
    assert len(data) + len(held_out) == len(table)
    assert 0.05 < len(first[1]) / (len(first[0]) + len(first[1])) < 0.15
    assert HubData(path, **settings)._rows == data._rows
    assert data.captions(1, seed=3)[0] == table[data._rows[data._chosen(1, 3)[0]]]["text"]
