"""Data sets of the `datasets` library: real parquet files, columns, filters, splits, and what is said of mistakes."""

import json
import time

import datasets
import jsonargparse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, features

from sparring.data import HubData, ImageData, ImageFolder, StreamData, decode, from_spec


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def images(n: int, seed: int = 0, shape=(6, 6)) -> list[Image.Image]:
    values = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)
    return [Image.fromarray(value) for value in values]


def table(n: int = 12, seed: int = 0) -> datasets.Dataset:
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "image": datasets.Image(),
            "second": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "owl"]),
            "word": datasets.Value("string"),
            "part": datasets.Value("float32"),
        }
    )
    rows = range(n)
    return datasets.Dataset.from_dict(
        {
            "id": list(rows),
            "image": images(n, seed),
            "second": images(n, seed + 1),
            "label": [row % 3 for row in rows],
            "word": ["zwei" if row % 2 else "eins" for row in rows],
            "part": [0.5] * n,
        },
        features=features,
    )


@pytest.fixture
def parquet(tmp_path) -> str:
    table().to_parquet(tmp_path / "set.parquet")
    return str(tmp_path / "set.parquet")


def uint8(data: HubData) -> np.ndarray:
    return ((data.images() + 1) * 127.5).round().byte().numpy()


def test_fashion_mnist_padded(shared):
    path = str(shared / "data" / "fashion_mnist-test.parquet")
    data = HubData(path, pad=2, limit=200)
    assert len(data) == 200
    assert data.image_shape == (1, 32, 32)
    assert data.num_classes == 10
    assert data.class_names[9] == "Ankle boot"
    pictures = data.images()
    assert (pictures[:, :, [0, 1, 30, 31]] == -1).all()
    assert (pictures[..., [0, 1, 30, 31]] == -1).all()
    assert pictures.max() == 1
    more = HubData(path, limit=400)
    rows = {image.tobytes() for image in uint8(more)[:, 0]}
    assert all(image.tobytes() in rows for image in uint8(data)[:, 0, 2:30, 2:30])
    assert more.labels().bincount(minlength=10).min() > 20
    original = datasets.load_dataset("parquet", data_files=path, split="train")
    row = more._rows[7]
    np.testing.assert_array_equal(uint8(more)[7, 0], np.asarray(original[row]["image"]))
    assert more.labels()[7] == original[row]["label"]


def test_emoji_filtered_and_small(shared):
    path = str(shared / "data" / "noto_emoji-64.parquet")
    data = HubData(path, where={"kind": "keycap"}, size=32)
    assert len(data) == 13
    assert data.image_shape == (3, 32, 32)
    assert data.num_classes is None
    assert data[[0]][1] is None
    kinds = HubData(path, where={"kind": ["plain", "keycap"]}, label_column="kind", limit=50, size=8)
    assert kinds.class_names == ["keycap", "plain", "tone", "zwj"]
    assert set(kinds.labels().tolist()) <= {0, 1}
    assert len(kinds) == 50


def test_emoji_pairs_have_two_columns_of_images(shared):
    path = str(shared / "data" / "noto_emoji_pairs-64.parquet")
    source, target = HubData(path, limit=5), HubData(path, limit=5, image_column="target")
    assert source.image_shape == target.image_shape == (3, 64, 64)
    assert not torch.equal(source.images(), target.images())


def test_columns(parquet):
    data = HubData(parquet)
    np.testing.assert_array_equal(uint8(data)[:, 0], [np.asarray(image) for image in images(12)])
    assert data.name == "set"
    assert data.labels().tolist() == [row % 3 for row in range(12)]
    assert data.class_names == ["cat", "dog", "owl"]
    second = HubData(parquet, image_column="second", label_column="word")
    np.testing.assert_array_equal(uint8(second)[:, 0], [np.asarray(image) for image in images(12, 1)])
    assert second.class_names == ["eins", "zwei"]
    assert second.labels(3, seed=1).tolist() == [row % 2 for row in second._chosen(3, 1)]
    numbers = HubData(parquet, label_column="id", limit=4)
    assert numbers.num_classes == 12
    assert numbers.class_names is None
    assert numbers.labels().tolist() == numbers._rows


def test_filters_and_limits(parquet):
    assert HubData(parquet, where={"label": "dog"})._rows == [1, 4, 7, 10]
    assert HubData(parquet, where={"label": ["dog", "owl"], "word": "eins"})._rows == [2, 4, 8, 10]
    assert HubData(parquet, where={"id": [3, 5]})._rows == [3, 5]
    few, more = HubData(parquet, limit=3), HubData(parquet, limit=6)
    assert len(few) == 3
    assert set(few._rows) < set(more._rows)
    assert len(HubData(parquet, limit=100)) == 12


def test_several_files_are_one_set(parquet, tmp_path):
    table(3, seed=5).to_parquet(tmp_path / "set2.parquet")
    assert len(HubData(str(tmp_path / "*.parquet"))) == 15
    assert len(from_spec(str(tmp_path / "set?.parquet"))) == 3


def test_on_demand_gives_the_same(parquet, monkeypatch):
    stored = HubData(parquet, limit=7, pad=1)
    monkeypatch.setattr(decode, "STORED_BYTES", 10)
    lazy = HubData(parquet, limit=7, pad=1)
    assert lazy._stored is None
    for ours, theirs in zip(lazy[[5, 0, 6]], stored[[5, 0, 6]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_saved_folders_and_their_splits(tmp_path):
    parts = datasets.DatasetDict({"train": table(6), "test": table(4, seed=3)})
    parts.save_to_disk(tmp_path / "saved")
    data = HubData(str(tmp_path / "saved"), pad=1, limit=3)
    assert len(data) == 3
    assert data.name == "saved"
    holdout = data.holdout()
    assert holdout.name == "saved:test"
    assert len(holdout) == 4
    assert holdout.image_shape == (1, 8, 8)
    assert holdout.holdout() is None
    assert HubData(str(tmp_path / "saved"), holdout="train").holdout().split == "train"
    with pytest.raises(ValueError, match="`split=dev` is not in .*saved, which has: train, test"):
        HubData(str(tmp_path / "saved"), split="dev")
    assert len(from_spec(str(tmp_path / "saved"))) == 6
    table(5).save_to_disk(tmp_path / "one")
    assert len(HubData(str(tmp_path / "one"))) == 5


def test_folders_as_on_the_hub(tmp_path):
    (tmp_path / "repo" / "data").mkdir(parents=True)
    table(6).to_parquet(tmp_path / "repo" / "data" / "train-00000-of-00001.parquet")
    table(4, seed=3).to_parquet(tmp_path / "repo" / "data" / "test-00000-of-00001.parquet")
    data = from_spec(str(tmp_path / "repo"))
    assert isinstance(data, HubData)
    assert (len(data), len(data.holdout())) == (6, 4)


def test_another_parquet_file_as_holdout(parquet, tmp_path):
    table(5, seed=9).to_parquet(tmp_path / "test.parquet")
    data = HubData(parquet, where={"word": "eins"}, size=3, channels=3, holdout=str(tmp_path / "test.parquet"))
    assert data.holdout().name == "test"
    assert data.holdout().image_shape == (3, 3, 3)
    assert len(data.holdout()) == 3
    assert HubData(parquet).holdout() is None


def test_image_bytes_without_the_type(tmp_path):
    plain = table().cast_column("image", datasets.Image(decode=False))
    rows = {"photo": [{"bytes": cell["bytes"], "path": None} for cell in plain["image"]]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "struct.parquet")
    binary = {"photo": [cell["bytes"] for cell in plain["image"]]}
    datasets.Dataset.from_dict(binary, datasets.Features({"photo": datasets.Value("binary")})).to_parquet(
        tmp_path / "binary.parquet"
    )
    for name in ("struct", "binary"):
        data = HubData(str(tmp_path / f"{name}.parquet"))
        np.testing.assert_array_equal(uint8(data)[:, 0], [np.asarray(image) for image in images(12)])


def test_paths_in_a_table_do_not_leave_the_data_set(tmp_path):
    secret, folder = tmp_path / "secret.png", tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    images(1)[0].save(secret)
    images(1, seed=7)[0].save(folder / "own.png")
    (folder / "link.png").symlink_to(secret)
    paths = [secret, f"{folder}/../secret.png", folder / "link.png", "http://localhost/x.png", folder / "own.png"]
    cells = [{"bytes": None, "path": str(path)} for path in paths]
    rows = datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": datasets.Image(decode=False)}))
    pq.write_table(rows.data.table, folder / "data" / "train.parquet")
    pq.write_table(rows.data.table, tmp_path / "set.parquet")
    reason = "no image bytes, and no file inside the data set"
    with pytest.raises(ValueError, match=rf"4 of 5 .*: row 0, ../secret.png \({reason}\), row 1, .*, row 2,"):
        HubData(str(folder))
    with pytest.warns(UserWarning, match="4 of 5"):
        own = HubData(str(folder), on_error="skip")
    np.testing.assert_array_equal(uint8(own)[0, 0], np.asarray(images(1, seed=7)[0]))
    with pytest.raises(ValueError, match=rf"5 of 5 images of set cannot be used: row 0, .*secret.png \({reason}"):
        HubData(str(tmp_path / "set.parquet"))


def test_files_of_a_local_folder_are_read(tmp_path):
    for number, image in enumerate(images(3)):
        (tmp_path / "set").mkdir(exist_ok=True)
        image.save(tmp_path / "set" / f"{number}.png")
    np.testing.assert_array_equal(uint8(HubData(str(tmp_path / "set")))[:, 0], [np.asarray(i) for i in images(3)])


def captioned(folder, names: list[str], metadata: str = "metadata.jsonl") -> str:
    """A folder of images of which each is captioned with its name."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        images(1, number)[0].save(folder / name)
    lines = [json.dumps({"file_name": name, "text": f"it is {name}"}) for name in names]
    (folder / metadata).write_text("\n".join(lines))
    return str(folder)


def test_names_of_files_are_no_splits(tmp_path):
    names = ["0001.png", "0002.png", "dev.jpg", "sub/test.png", "train_set.png", "val 1.png"]
    data = HubData(captioned(tmp_path / "set [a]*", names), text_column="text")
    assert sorted(data.captions()) == [f"it is {name}" for name in names]
    assert data.holdout() is None
    assert isinstance(from_spec(str(tmp_path / "set [a]*")), HubData)


@pytest.mark.filterwarnings("ignore:F. train")
def test_folders_are_splits_and_it_is_said(tmp_path):
    captioned(tmp_path / "F" / "train", ["0.png", "test.png"])
    captioned(tmp_path / "F" / "val", ["1.png"])
    assert isinstance(from_spec(str(tmp_path / "F")), HubData)
    with pytest.warns(UserWarning, match="^F: train/ is trained on, val/ is the holdout$"):
        data = HubData(str(tmp_path / "F"), text_column="text")
    assert sorted(data.captions()) == ["it is 0.png", "it is test.png"]
    assert data.holdout().captions() == ["it is 1.png"]
    folder = captioned(tmp_path / "G", ["train/0.png", "test/1.png", "test/2.png"])  # the list lies beside them
    with pytest.warns(UserWarning, match="train/ is trained on, test/ is the holdout"):
        data = HubData(folder, text_column="text")
    assert (data.captions(), len(data.holdout())) == (["it is train/0.png"], 2)
    with pytest.warns(UserWarning, match="train/ is trained on"):
        assert ImageFolder(folder, captions=True).captions() == ["it is train/0.png"]


@pytest.mark.filterwarnings("ignore:split. train/")
def test_folders_that_are_splits_are_no_classes(tmp_path):
    """`datasets` would make a class of one of them."""
    for name in ("train/0.png", "train/1.png", "test/2.png"):
        (tmp_path / "split" / name).parent.mkdir(parents=True, exist_ok=True)
        images(1, 5)[0].save(tmp_path / "split" / name)
    data = HubData(str(tmp_path / "split"))
    assert (len(data), data.num_classes, data.labels()) == (2, None, None)
    assert (len(data.holdout()), data.holdout().labels()) == (1, None)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_image_that_datasets_does_not_take_is_counted(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("0.png", "1.avif"):
        images(1, 5)[0].save(tmp_path / "set" / name)
    with pytest.warns(UserWarning, match="^images of set are left out: 1 of a kind that `datasets` does not take"):
        assert len(HubData(str(tmp_path / "set"))) == 1


@pytest.mark.filterwarnings("ignore:images of set")
def test_what_a_list_leaves_out_is_counted_and_what_it_adds_is_named(tmp_path):
    folder = captioned(tmp_path / "set", ["0.png", "1.png"])
    for name in ("2.png", "3.png"):
        images(1, 5)[0].save(tmp_path / "set" / name)
    (tmp_path / "set" / "4.heic").write_bytes(b"no matter")
    message = (
        "^images of set are left out: 2 that its metadata does not list, such as 2.png, "
        "1 in a format that Pillow does not read here, such as 4.heic$"
    )
    with pytest.warns(UserWarning, match=message):
        assert len(HubData(folder, text_column="text")) == 2
    with (tmp_path / "set" / "metadata.jsonl").open("a") as file:
        file.write('\n{"file_name": "gone.png", "text": "x"}')
    with pytest.raises(ValueError, match=r"1 of 3 images of set .*: row 2, gone.png \(no image bytes"):
        HubData(folder, text_column="text")


def test_a_readme_in_a_folder_of_captions(tmp_path, capfd):
    folder = captioned(tmp_path / "set", ["0.png", "1.png"])
    (tmp_path / "set" / "README.md").write_text("---\nconfigs: [\n---\n# A set\n")
    assert len(HubData(folder, text_column="text")) == 2
    (tmp_path / "set" / "metadata.jsonl").write_text("{")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        HubData(folder, text_column="text")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_tables_that_do_not_fit_together_are_one_line(tmp_path, capfd):
    table(3).to_parquet(tmp_path / "0.parquet")
    table(3).rename_column("word", "other").to_parquet(tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(b"PAR1 no")
    capfd.readouterr()
    for pattern in ("[01].parquet", "2.parquet"):
        with pytest.raises(ValueError, match=r"parquet` cannot be read") as caught:
            HubData(str(tmp_path / pattern))
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


BYTES = {
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "struct": pa.struct([("bytes", pa.binary())]),
    "large struct": pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
    "struct of views": pa.struct([("path", pa.string_view()), ("bytes", pa.binary_view())]),
}


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("kind", list(BYTES))
@pytest.mark.parametrize("stream", [True, False])
def test_images_and_captions_in_every_layout(tmp_path, kind, text, stream):
    whole = [cell["bytes"] for cell in table(3).cast_column("image", datasets.Image(decode=False))["image"]]
    cells = [{"bytes": one, "path": None} for one in whole] if "struct" in kind else whole
    columns = {"image": pa.array(cells, BYTES[kind]), "text": pa.array(["a", "b", "c"], text)}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    data = (StreamData if stream else HubData)(str(tmp_path / "set.parquet"), text_column="text", channels=1)
    np.testing.assert_array_equal(uint8(data)[:, 0], [np.asarray(image) for image in images(3)])
    assert data.captions() == ["a", "b", "c"]


def test_the_home_folder_is_expanded(parquet, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = HubData("~/set.parquet", holdout="~/set.parquet")
    assert len(data) == len(data.holdout()) == 12
    assert len(from_spec("~/set.parquet")) == 12
    assert len(StreamData("~/set.parquet", holdout="~/*.parquet").holdout()) == 12


def test_broken_images_are_counted_and_named_by_row(tmp_path):
    cells = table(5).cast_column("image", datasets.Image(decode=False))["image"][:]
    cells[1]["bytes"], cells[3] = b"nothing", None
    feature = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_dict({"image": cells}, feature).to_parquet(tmp_path / "set.parquet")
    path = str(tmp_path / "set.parquet")
    with pytest.raises(
        ValueError, match=r"2 of 5 images of set cannot be used: row 1 \(not an image\), row 3 \(no image"
    ):
        HubData(path)
    with pytest.warns(UserWarning, match="2 of 5 images of set cannot be used"):
        assert HubData(path, on_error="skip")._rows == [0, 2, 4]


@pytest.mark.parametrize("value", [None, -1])
def test_missing_labels_are_counted(tmp_path, value):
    rows = table(4).remove_columns("label").add_column("label", [0, value, 1, value])
    rows.to_parquet(tmp_path / "set.parquet")
    with pytest.raises(ValueError, match="2 of 4 rows of .* have no label"):
        HubData(str(tmp_path / "set.parquet"), label_column="label")
    assert HubData(str(tmp_path / "set.parquet")).labels() is None
    whole = HubData(str(tmp_path / "set.parquet"), label_column="label", where={"id": [0, 2]})
    assert whole.labels().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_column": "word"}, "`image_column=word`: columns with images: image, second; all columns: id, image"),
        ({"image_column": "photo"}, "`image_column=photo`: columns with images: image, second"),
        ({"label_column": "class"}, "`label_column` names the column class, which is not there: id, image, second"),
        ({"label_column": "part"}, "`label_column=part` holds .*float32.*; labels are class names or whole numbers"),
        ({"where": {"kind": "x"}}, "`where` names the column kind, which is not there: id, image"),
        ({"where": {"word": "drei"}}, "`where` leaves no row: word is never drei; it is eins, zwei"),
        ({"where": {"label": "cow"}}, "label is never cow; it is cat, dog, owl"),
        ({"split": "test"}, "`split=test` is not in .*, which has: train"),
        ({"limit": 0}, "`limit=0` must be at least 1"),
        ({"size": -3}, "`size=-3` must be at least 1"),
        ({"path": "missing.parquet"}, "`path=missing.parquet`: no such parquet file"),
        ({"path": "./missing/folder"}, "`path=./missing/folder` is not there: give a parquet file, a folder"),
    ],
)
def test_mistakes_are_named(parquet, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        HubData(**{"path": parquet} | settings)
    assert "\n" not in str(caught.value)


def test_tables_without_images_or_rows(tmp_path, monkeypatch):
    table(3).select_columns(["word"]).to_parquet(tmp_path / "words.parquet")
    with pytest.raises(ValueError, match="`image_column=None`: no column holds images; all columns: word"):
        HubData(str(tmp_path / "words.parquet"))
    monkeypatch.setattr(datasets, "load_dataset", lambda path: {"train": table(3).select([])})
    with pytest.raises(ValueError, match="split train of a/b has no rows"):
        HubData("a/b")


def test_files_that_are_not_what_they_seem(tmp_path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "set.parquet", tmp_path / "empty"):
        with pytest.raises(ValueError, match="cannot be read: ") as caught:
            HubData(str(path))
        assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_reached(monkeypatch):
    def fail(path):
        raise ConnectionError(f"no way\nto {path}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr("sparring.data.hub_access.hub_answers", lambda: True)
    with pytest.raises(ValueError, match="`path=a/b` is neither a file or folder here nor .* the hub: no way to a/b"):
        HubData("a/b")
    with pytest.raises(ValueError, match="`path=a/b`"):
        from_spec("hub:a/b:test")


def test_without_a_network_a_hub_name_fails_at_once_and_what_is_cached_is_still_looked_for(monkeypatch):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    started = time.monotonic()
    with pytest.raises(
        ValueError, match="`path=a/b` is neither .* nor downloaded, and the hub cannot be reached: give"
    ):
        HubData("a/b")
    assert time.monotonic() - started < 10
    assert asked == [("https://huggingface.co", 5.0)]
    assert not datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path: {"train": path, "offline": datasets.config.HF_HUB_OFFLINE}
    )
    from sparring.data.hub import _open_splits

    assert _open_splits("a/b", {}) == {"train": "a/b", "offline": True}


def test_built_from_a_recipe(parquet):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    flags = [
        "--data=sparring.data.HubData",
        f"--data.path={parquet}",
        '--data.where={"word": ["eins"], "id": [2, 4, 5]}',
    ]
    data = parser.instantiate(parser.parse_args([*flags, "--data.size=3", "--data.channels=3"])).data
    assert data._rows == [2, 4]
    assert data.image_shape == (3, 3, 3)
    with pytest.raises(jsonargparse.ArgumentError, match="channels"):
        parser.parse_args([*flags, "--data.channels=2"])
