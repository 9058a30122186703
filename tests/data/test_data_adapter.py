"""A torch `Dataset` as it is: kinds of images, their range, labels and captions, and what is said of mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sparring.data import BatchStream, TorchData


class Items(Dataset):
    def __init__(self, items: list):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


VALUES = [0, 51, 255]
EXPECTED = torch.tensor([-1.0, -0.6, 1.0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("make", "value_range"),
    [
        (lambda grey: Image.fromarray(grey), None),
        (lambda grey: grey, None),
        (lambda grey: torch.from_numpy(grey if grey.ndim == 2 else grey.transpose(2, 0, 1)).reshape(-1, 2, 2), None),
        (lambda grey: torch.from_numpy(grey / 255).reshape(2, 2, -1).permute(2, 0, 1), (0, 1)),
        (lambda grey: torch.from_numpy(grey / 127.5 - 1).reshape(2, 2, -1).permute(2, 0, 1).float(), (-1, 1)),
    ],
)
def test_images_of_every_kind(make, value_range, channels):
    shape = (2, 2) if channels == 1 else (2, 2, 3)
    data = TorchData(Items([make(np.full(shape, value, np.uint8)) for value in VALUES]), value_range=value_range)
    assert (len(data), data.name, data.image_shape) == (3, "Items", (channels, 2, 2))
    assert (data.num_classes, data.text, data.labels(), data.captions()) == (None, False, None, None)
    images = data.images()
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, EXPECTED[:, None, None, None].expand(3, channels, 2, 2))


def test_rows_and_columns_stay_what_they_are():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = TorchData(Items([Image.fromarray(pixels)]), flip=True)
    np.testing.assert_array_equal(((image.images()[0] + 1) * 127.5).round().numpy(), pixels.transpose(2, 0, 1))
    batch = BatchStream(image.order(), 8, 0).batch(0)
    turned = (image[batch][0][:, 0, 0, 0] > image[batch][0][:, 0, 0, 3]).tolist()
    assert turned == batch.mirrored


def test_labels_captions_and_holdout():
    grey = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in VALUES]
    labelled = Items([(grey[0], 2), (grey[1], torch.tensor(0)), [grey[2], np.int64(1)]])
    data = TorchData(labelled, num_classes=3, class_names=["a", "b", "c"], holdout=labelled, name="mine")
    assert data.labels().tolist() == [2, 0, 1]
    assert data[[2, 0]][1].tolist() == [1, 2]
    other = data.holdout()
    assert (other.name, other.num_classes, other.class_names) == ("mine:holdout", 3, ["a", "b", "c"])
    assert other.holdout() is None
    assert TorchData(labelled).labels() is None
    told = TorchData(Items([(image, f"number {k}") for k, image in enumerate(grey)]))
    assert told.text
    assert told.captions() == ["number 0", "number 1", "number 2"]
    loader = DataLoader(data, sampler=BatchStream(data.order(), 3, 5), batch_size=None, num_workers=1)
    assert sorted(next(iter(loader))[1].tolist()) == [0, 1, 2]


GREY = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ([torch.zeros(1, 2, 2)], {}, r"`value_range` is needed for the torch.float32 images of Items: \(0, 1\) or"),
        ([torch.full((1, 2, 2), -1.0)], {"value_range": (0, 1)}, r"item 0 of Items has values from -1 to -1: outside"),
        ([torch.full((1, 2, 2), float("nan"))], {"value_range": (0, 1)}, "item 0 of Items has values from nan"),
        ([torch.zeros(1, 2, 2)], {"value_range": (1, 0)}, "`value_range=.1, 0.` must be black and white"),
        ([torch.zeros(1, 2, 2, dtype=torch.int64)], {}, "item 0 of Items is torch.int64: whole numbers must be uint8"),
        ([torch.zeros(2, 2)], {}, r"item 0 of Items is of shape \(2, 2\): give images of Pillow"),
        (["a.png"], {}, "item 0 of Items is str: give images of Pillow"),
        ([{"image": GREY}], {}, "items of Items are dictionaries"),
        ([(GREY, 0, 1)], {}, "items of Items have 3 parts"),
        ([GREY], {"num_classes": 2}, "`num_classes=2`: the items of Items have no class number"),
        ([(GREY, 2)], {"num_classes": 2}, "item 0 of Items has label 2: none of 2 classes"),
        (
            [GREY, np.zeros((2, 3), np.uint8)],
            {},
            r"item 1 of Items has the shape \(1, 2, 3\), others",
        ),
        ([], {}, "`dataset`: Items is empty"),
    ],
)
def test_mistakes_are_named(items, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        TorchData(Items(items), **settings)[list(range(len(items)))]
    assert "\n" not in str(caught.value)


def test_a_data_set_without_a_length():
    with pytest.raises(ValueError, match="`dataset` is a generator, which has no length: give a map-style data set"):
        TorchData(image for image in [GREY])
