"""Files of samples: what each ending holds."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.runs.pictures import to_uint8
from sparring.samplers import save_images


def test_each_ending(tmp_path):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert save_images(images, tmp_path / "a.npz") == f"4 images as {tmp_path / 'a.npz'}"
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"], to_uint8(images).permute(0, 2, 3, 1).numpy())
    for name, kind in (("a.png", "PNG"), ("a.JPG", "JPEG")):
        save_images(images, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind
    save_images(images, tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.png"))) == 4
    with pytest.raises(ValueError, match="the ending is one of .png, .jpg"):
        save_images(images, tmp_path / "a.bmp")
    assert not (tmp_path / "a.bmp").exists()


def test_points_as_numbers(tmp_path):
    points = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    save_images(points, tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"], points.flatten(1).numpy())
