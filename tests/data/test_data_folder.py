"""Folders of image files: what becomes of sizes, colours and transparency, and what is said of broken ones."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import BatchStream, ImageFolder, decode, from_spec


def save(path: Path, pixels, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=options.pop("dtype", np.uint8)), options.pop("mode", None)).save(
        path, **options
    )
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def uint8(data: ImageFolder) -> np.ndarray:
    return ((data.images() + 1) * 127.5).round().byte().numpy()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six grey 8x8 images in two classes."""
    for number in range(6):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", noise(8, 8, seed=number))
    return tmp_path / "data"


def test_pixels_and_order_are_those_of_the_files(folder):
    data = ImageFolder(str(folder), labels=False)
    assert data.image_shape == (1, 8, 8)
    assert data.name == "data"
    assert data.num_classes is None
    assert data.labels() is None
    np.testing.assert_array_equal(uint8(data)[:, 0], [noise(8, 8, seed=number) for number in (0, 2, 4, 1, 3, 5)])


def test_classes_are_the_subfolders(folder):
    data = ImageFolder(str(folder), labels=True)
    assert data.class_names == ["a", "b"]
    assert data.num_classes == 2
    assert data.labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert data[[5, 0]][1].tolist() == [1, 0]
    save(folder / "loose.png", noise(8, 8))
    with pytest.raises(ValueError, match="named after its class, but 1 lie in none, such as loose.png"):
        ImageFolder(str(folder), labels=True)


def test_two_class_folders_are_labels_by_default(folder, tmp_path):
    data = ImageFolder(str(folder))
    assert (data.num_classes, data.class_names) == (2, ["a", "b"])
    assert data.labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert ImageFolder(str(folder), holdout=str(folder)).holdout().labels().tolist() == [0, 0, 0, 1, 1, 1]
    save(tmp_path / "plain" / "0.png", noise(8, 8))
    unlabelled = ImageFolder(str(folder), holdout=str(tmp_path / "plain")).holdout()
    assert (len(unlabelled), unlabelled.num_classes) == (1, None)
    assert ImageFolder(str(folder), labels=False).num_classes is None
    assert ImageFolder(str(folder / "a")).num_classes is None
    save(folder / "loose.png", noise(8, 8))
    assert ImageFolder(str(folder)).num_classes is None
    (folder / "loose.png").rename(folder / "a" / "loose.png")
    (folder / "b").rename(folder / "a" / "b")
    assert ImageFolder(str(folder)).num_classes is None  # one folder is no class


def test_a_share_of_a_folder_is_held_out(tmp_path):
    for number in range(40):
        save(tmp_path / "set" / "ab"[number % 2] / f"{number}.png", noise(4, 4, seed=number))
    data = ImageFolder(str(tmp_path / "set"), holdout_share=0.25, flip=True)
    other = data.holdout()
    assert 4 <= len(other) <= 16
    everything = {image.tobytes() for image in uint8(ImageFolder(str(tmp_path / "set")))}
    sides = [{image.tobytes() for image in uint8(part)} for part in (data, other)]
    assert sides[0] | sides[1] == everything
    assert not sides[0] & sides[1]
    assert (other.name, other.flip, other.holdout()) == ("set:holdout", False, None)
    assert other.class_names == ["a", "b"]
    before = {image.tobytes() for image in uint8(other)}
    save(tmp_path / "set" / "a" / "new.png", noise(4, 4, seed=99))  # moves none of the others
    again = ImageFolder(str(tmp_path / "set"), holdout_share=0.25).holdout()
    assert before <= {image.tobytes() for image in uint8(again)}
    for wrong in ({"holdout_share": 1.5}, {"holdout_share": 0.5, "holdout": "x"}):
        with pytest.raises(ValueError, match="`holdout_share="):
            ImageFolder(str(tmp_path / "set"), **wrong)


@pytest.mark.parametrize("other", ["test", "val", "Validation", "dev"])
def test_folders_that_say_what_they_are_for(tmp_path, other):
    for number in range(5):
        save(tmp_path / "F" / ("train" if number < 3 else other) / f"{number}.png", noise(4, 4, seed=number))
    with pytest.warns(UserWarning, match=f"F: train/ is trained on, {other}/ is the holdout$"):
        data = ImageFolder(str(tmp_path / "F"))
    assert (data.name, data.num_classes) == ("F", None)
    np.testing.assert_array_equal(uint8(data)[:, 0], [noise(4, 4, seed=number) for number in range(3)])
    np.testing.assert_array_equal(uint8(data.holdout())[:, 0], [noise(4, 4, seed=number) for number in (3, 4)])


@pytest.mark.filterwarnings("ignore:F")
def test_splits_of_classes_and_of_three(tmp_path):
    for number in range(12):
        save(
            tmp_path / "F" / ("train", "test", "val")[number % 3] / "ab"[number // 3 % 2] / f"{number}.png", noise(4, 4)
        )
    with pytest.warns(UserWarning, match="F: train/ is trained on, test/ is the holdout, val/ is not used"):
        data = ImageFolder(str(tmp_path / "F"))
    assert (len(data), data.class_names, data.holdout().class_names) == (4, ["a", "b"], ["a", "b"])
    with pytest.warns(UserWarning, match="F: train/ is trained on, test/ is not used, val/ is not used"):
        share = ImageFolder(str(tmp_path / "F"), holdout_share=0.5)
    assert len(share) + len(share.holdout()) == 4
    own = ImageFolder(str(tmp_path / "F"), holdout=str(tmp_path / "F" / "val"))
    assert len(own) == len(own.holdout()) == 4
    save(tmp_path / "F" / "cat" / "0.png", noise(4, 4))
    with pytest.raises(ValueError, match="F has train/ and test/, and images that belong to neither, such as in cat"):
        ImageFolder(str(tmp_path / "F"))


def test_names_that_only_look_like_splits(tmp_path):
    for name in ("train", "plane", "car"):
        save(tmp_path / "vehicles" / name / "test.png", noise(4, 4))
    assert ImageFolder(str(tmp_path / "vehicles")).class_names == ["car", "plane", "train"]
    for name in ("train_set.png", "test.png", "val_1.png"):
        save(tmp_path / "files" / name, noise(4, 4))
    assert len(ImageFolder(str(tmp_path / "files"))) == 3


def test_large_sets_are_decoded_on_demand_to_the_same_tensors(folder, monkeypatch):
    save(folder / "a" / "wide.png", noise(8, 14, 3))
    stored = ImageFolder(str(folder), size=6, pad=1, labels=True, flip=True)
    monkeypatch.setattr(decode, "STORED_BYTES", 10)
    lazy = ImageFolder(str(folder), size=6, pad=1, labels=True, flip=True)
    assert stored._stored is not None
    assert lazy._stored is None
    assert lazy.image_shape == stored.image_shape == (3, 8, 8)
    for indices in ([3, 0, 0], BatchStream(7, 7, seed=0).batch(0)):
        for ours, theirs in zip(lazy[indices], stored[indices], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torch.equal(lazy.labels(4), stored.labels(4))


def test_grey_and_colour(tmp_path):
    grey, colour = noise(4, 4), noise(4, 4, 3)
    save(tmp_path / "0.png", grey)
    assert ImageFolder(str(tmp_path)).image_shape == (1, 4, 4)
    np.testing.assert_array_equal(uint8(ImageFolder(str(tmp_path), channels=3))[0], [grey] * 3)
    save(tmp_path / "1.png", colour)
    both = uint8(ImageFolder(str(tmp_path)))
    np.testing.assert_array_equal(both[0], [grey] * 3)
    np.testing.assert_array_equal(both[1], colour.transpose(2, 0, 1))
    made_grey = uint8(ImageFolder(str(tmp_path), channels=1))
    np.testing.assert_array_equal(made_grey[0, 0], grey)
    np.testing.assert_allclose(made_grey[1, 0], colour @ np.array([0.299, 0.587, 0.114]), atol=1)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4))
    pixels[0, :, 3] = [0, 255, 51]  # black: hidden, opaque, one fifth
    save(tmp_path / "0.png", pixels)
    np.testing.assert_array_equal(uint8(ImageFolder(str(tmp_path)))[0, :, 0], [[255, 0, 204]] * 3)


def test_transparent_grey_stays_grey(tmp_path):
    save(tmp_path / "0.png", [[[10, 0], [10, 255]]], mode="LA")
    np.testing.assert_array_equal(uint8(ImageFolder(str(tmp_path)))[0], [[[255, 10]]])


def test_a_transparent_colour_and_a_palette(tmp_path):
    rgb = np.array([[[9, 9, 9], [200, 0, 0]]])
    save(tmp_path / "0.png", rgb, transparency=(9, 9, 9))
    Image.fromarray(rgb.astype(np.uint8)).quantize(2).save(tmp_path / "1.png")
    first, second = uint8(ImageFolder(str(tmp_path)))
    np.testing.assert_array_equal(first[:, 0].T, [[255, 255, 255], [200, 0, 0]])
    np.testing.assert_array_equal(second[:, 0].T, rgb[0])


def test_sixteen_bits_become_eight_and_one_bit_too(tmp_path):
    save(tmp_path / "0.png", [[0, 257 * 7, 65535]], dtype=np.uint16)
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1").save(tmp_path / "1.png")
    images = uint8(ImageFolder(str(tmp_path)))
    np.testing.assert_array_equal(images[:, 0, 0], [[0, 7, 255], [0, 255, 0]])


def test_resizing_takes_the_centre_square_and_averages(tmp_path):
    """A fine chessboard becomes grey: without antialias it would stay black or white. The sides fall away."""
    wide = np.zeros((32, 64))
    wide[:, 16:48] = 255 * (np.indices((32, 32)).sum(0) % 2)
    wide[:, :16] = 255
    save(tmp_path / "0.png", wide)
    save(tmp_path / "1.png", wide.T)
    images = uint8(ImageFolder(str(tmp_path), size=8))
    assert images.shape == (2, 1, 8, 8)
    assert 110 <= images.min() <= images.max() <= 145


def test_images_of_the_right_size_stay_bit_for_bit(folder):
    np.testing.assert_array_equal(uint8(ImageFolder(str(folder), size=8)), uint8(ImageFolder(str(folder))))


def test_padding_is_black_and_outside_the_size(folder):
    data = ImageFolder(str(folder), size=4, pad=2)
    assert data.image_shape == (1, 8, 8)
    images = data.images()
    inner = ImageFolder(str(folder), size=4).images()
    torch.testing.assert_close(images[:, :, 2:6, 2:6], inner, rtol=0, atol=0)
    frame = torch.ones(8, 8, dtype=torch.bool)
    frame[2:6, 2:6] = False
    assert (images[:, :, frame] == -1).all()


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    pixels = np.zeros((8, 16))
    pixels[:, 8:] = 255
    save(tmp_path / "0.jpg", pixels, exif=exif, quality=100)
    data = ImageFolder(str(tmp_path))
    assert data.image_shape == (1, 16, 8)
    assert (uint8(data)[0, 0, :8] < 5).all()
    assert (uint8(data)[0, 0, 8:] > 250).all()


def test_a_holdout_folder_is_read_the_same_way(folder, tmp_path):
    for number in range(2):
        save(tmp_path / "test" / "ab"[number] / "0.png", noise(9, 9, 3))
    data = ImageFolder(str(folder), size=6, labels=True, holdout=str(tmp_path / "test"))
    other = data.holdout()
    assert other.image_shape == (1, 6, 6)
    assert other.labels().tolist() == [0, 1]
    assert ImageFolder(str(folder)).holdout() is None
    with pytest.raises(ValueError, match=r"images of shape \(1, 9, 9\), data of \(1, 8, 8\): set `size`"):
        ImageFolder(str(folder), holdout=str(tmp_path / "test")).holdout()
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(ValueError, match="other classes than data"):
        data.holdout()


def test_nothing_outside_the_folder_is_read(folder, tmp_path):
    secret = save(tmp_path / "secret" / "key.png", noise(8, 8))
    (folder / "a" / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "a" / "pipe.png")  # opening it would wait for ever
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "a" / "notes.md").symlink_to(secret)
    message = r"^images of data are left out: 3 behind symbolic links \(set `follow_links=True`\), such as a/link.png$"
    with pytest.warns(UserWarning, match=message):
        assert len(ImageFolder(str(folder))) == 6
    assert len(ImageFolder(str(folder), follow_links=True)) == 8
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "link.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"holds no images \(1 behind symbolic links \(set `follow_links"):
        ImageFolder(str(bare))
    assert len(ImageFolder(str(bare), follow_links=True)) == 1


def test_a_link_to_the_folder_itself_is_followed(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    assert len(ImageFolder(str(tmp_path / "alias"))) == 6


def test_formats_that_cannot_be_read_are_counted(folder):
    for name in ("a/photo.HEIC", "drawing.svg", "b/scan.jxl"):
        (folder / name).write_bytes(b"no matter")
    (folder / "README.md").write_text("no image")
    message = "^images of data are left out: 3 in a format that Pillow does not read here, such as a/photo.HEIC$"
    with pytest.warns(UserWarning, match=message):
        assert len(ImageFolder(str(folder))) == 6


def test_the_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    data = ImageFolder("~/data", holdout="~/data")
    assert len(data) == len(data.holdout()) == 6
    assert len(from_spec("~/data")) == 6


@pytest.fixture
def broken(folder) -> Path:
    whole = (folder / "a" / "0.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[:60])
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "text.jpg").write_text("this is\nno image")
    save(folder / "b" / "large.png", noise(9, 8))
    return folder


def test_unusable_images_stop_and_are_counted_and_named(broken):
    with pytest.raises(ValueError, match="4 of 10 images of data cannot be used: a/cut.png") as caught:
        ImageFolder(str(broken))
    message = str(caught.value)
    assert "b/empty.png (not an image), b/large.png (8x9 pixels, most are 8x8: set `size`), ...;" in message
    assert "on_error=skip" in message
    assert "\n" not in message


def test_unusable_images_are_skipped_when_asked(broken):
    with pytest.warns(UserWarning, match="4 of 10 images of data cannot be used: a/cut.png .*; they are left out"):
        data = ImageFolder(str(broken), on_error="skip", labels=True)
    assert len(data) == 6
    assert data.labels().tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(uint8(data)[:, 0], [noise(8, 8, seed=number) for number in (0, 2, 4, 1, 3, 5)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(ImageFolder(str(broken), on_error="skip", size=8)) == 7
    assert len(caught) == 1


def test_nothing_usable_stops_even_when_skipping(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="1 of 1 images .* 0.png .not an image.; nothing is left"):
        ImageFolder(str(tmp_path), on_error="skip")


def test_an_image_that_breaks_later_stops_or_gives_way(folder, monkeypatch):
    monkeypatch.setattr(decode, "STORED_BYTES", 10)
    cut = folder / "a" / "2.png"
    cut.write_bytes(cut.read_bytes()[:60])  # its header is whole
    data = ImageFolder(str(folder), labels=True)
    data[[0, 2]]
    with pytest.raises(ValueError, match="a/2.png .*; repair or remove it, or set `on_error=skip`"):
        data[[0, 1]]
    skipping = ImageFolder(str(folder), labels=True, on_error="skip")
    with pytest.warns(UserWarning, match="a/2.png .*; the next image takes its place"):
        images, labels = skipping[[0, 1, 3]]
    assert labels.tolist() == [0, 0, 1]
    torch.testing.assert_close(images[1], skipping[[2]][0][0], rtol=0, atol=0)


def test_a_decompression_bomb_is_a_broken_image(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    with pytest.raises(ValueError, match="6 of 6 images .* exceeds limit"):
        ImageFolder(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "`size=0` must be at least 1"),
        ({"pad": -1}, "`pad=-1` must not be negative"),
        ({"channels": 4}, "`channels=4` must be 1"),
        ({"on_error": "ignore"}, "`on_error=ignore` must be stop or skip"),
        ({"path": "nowhere"}, "`path=nowhere` is not a folder"),
    ],
)
def test_mistakes_are_named(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(**{"path": str(folder)} | settings)


def test_a_file_and_an_empty_folder_are_no_data_set(folder, tmp_path):
    with pytest.raises(ValueError, match="is not a folder: it is a file"):
        ImageFolder(str(folder / "a" / "0.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no images: looked for .* \.jpg .* \.png"):
        ImageFolder(str(tmp_path / "empty"))


def test_a_folder_is_a_name_of_a_data_set(folder):
    data = from_spec(str(folder), size=4, labels=True, channels=None)
    assert data.image_shape == (1, 4, 4)
    assert data.num_classes == 2
