"""A data set knows whether its rows are those that a run was started with, without reading their pixels."""

import io
import shutil
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sparring.data import (
    Digits,
    GaussianMixture,
    HubData,
    ImageFolder,
    PairedFolders,
    StoredImages,
    StreamData,
    UnpairedData,
    pixels,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(number: int, side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), number, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write(path, numbers: list[int], kind=None, size: int = 4) -> str:
    """Images in a folder, a tar or a parquet file; the last of another size."""
    files = {f"{number:02d}.png": png(number, size if number == numbers[-1] else 4) for number in numbers}
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"image": pa.array(files.values(), kind or pa.binary())}), path)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
    return str(path)


KINDS = [
    ("set", ImageFolder),
    ("set", HubData),
    ("set.parquet", HubData),
    ("set.parquet", StreamData),
    ("set.tar", StreamData),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_rows_that_were_added_removed_or_exchanged_are_noticed(tmp_path, name, kind, monkeypatch):
    before = kind(write(tmp_path / name, [0, 1, 2, 3]), size=2).fingerprint()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / name).rename(moved / name)
    data = kind(str(moved / name), size=2)
    monkeypatch.setattr(pixels, "decode_into", lambda *_: pytest.fail("a pixel was read"))
    data.check_fingerprint(before)  # the same files in another place
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for numbers in ([0, 1, 2], [0, 1, 2, 3, 4]):
        data = kind(write(moved / name, numbers), size=2)
        message = rf"`set` has {len(numbers)} images, not the 4 that the run was started with: put them back, or"
        with pytest.raises(ValueError, match=message) as caught:
            data.check_fingerprint(before)
        assert "\n" not in str(caught.value)
    data = kind(write(moved / name, [0, 1, 2, 3], size=600), size=2)
    with pytest.raises(ValueError, match="`set` has other images than the 4 that the run was started with"):
        data.check_fingerprint(before)


def test_other_names_of_files_are_noticed(tmp_path):
    before = ImageFolder(write(tmp_path / "set", [0, 1, 2])).fingerprint()
    (tmp_path / "set" / "01.png").rename(tmp_path / "set" / "05.png")
    with pytest.raises(ValueError, match="has other images than the 3"):
        ImageFolder(str(tmp_path / "set")).check_fingerprint(before)


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.binary()], ids=str)
def test_every_layout_of_bytes(tmp_path, kind):
    before = HubData(write(tmp_path / "a.parquet", [0, 1, 2], kind)).fingerprint()
    HubData(write(tmp_path / "b.parquet", [0, 1, 2], kind)).check_fingerprint(before)
    other = HubData(write(tmp_path / "c.parquet", [0, 1, 2], kind, size=600), size=4)
    assert other.fingerprint()["images"] == 3
    assert other.fingerprint() != before


def test_two_sets_and_sets_in_memory(tmp_path):
    target, source = write(tmp_path / "a", [0, 1, 2]), write(tmp_path / "b", [0, 1, 2])
    for kind in (PairedFolders, UnpairedData):
        before = kind(target, source).fingerprint()
        kind(target, source).check_fingerprint(before)
        write(tmp_path / "b", [0, 1, 2], size=600)
        assert kind(target, source, size=2).fingerprint() != before
        write(tmp_path / "b", [0, 1, 2])
    Digits().check_fingerprint(Digits().fingerprint())
    GaussianMixture().check_fingerprint(GaussianMixture().fingerprint())
    assert Digits().fingerprint() != Digits("holdout").fingerprint()
    images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0])
    assert StoredImages(images, labels).fingerprint() != StoredImages(images, 1 - labels).fingerprint()
