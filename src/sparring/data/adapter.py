"""A data set of torch, as it is, for `Trainer`."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparring.data.base import Condition, ImageData, flip_in_place
from sparring.data.pixels import pixels_of


class TorchData(ImageData):
    """A map-style torch `Dataset` whose items are an image, or an image and its class number or caption.

    Images are Pillow's, uint8 (tensors (C, H, W) or arrays (H, W[, C])), or floating-point tensors (C, H, W) of a range
    that `value_range` says. All have one size: resizing belongs to the data set's own transform. What a transform draws
    from a random generator of its own is not repeated when a run goes on.

    Args:
        dataset: has a length, and an item for each number below it.
        num_classes: number of classes; None: class numbers are not used.
        value_range: what black and white are in floating-point images, such as (0, 1) or (-1, 1).
        class_names: one per class.
        name: for tables and reports; None: the class's name.
        flip: turn half of the training images left to right.
        holdout: data set of the same kind with the images to evaluate against.

    Raises:
        ValueError: no length or no items, items of another kind, floating-point images without a range or outside it,
            images of several sizes, class numbers outside 0..num_classes-1.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_classes: int | None = None,
        value_range: tuple[float, float] | None = None,
        class_names: list[str] | None = None,
        name: str | None = None,
        flip: bool = False,
        holdout: Dataset[Any] | None = None,
    ):
        self.name = name or type(dataset).__name__
        self.dataset = dataset
        self.num_classes, self.class_names = num_classes, class_names
        self.value_range, self.flip = value_range, flip
        self._holdout = holdout
        if not isinstance(dataset, Sized):
            raise ValueError(f"`dataset` is a {self.name}, which has no length: give a map-style data set")
        if len(dataset) == 0:
            raise ValueError(f"`dataset`: {self.name} is empty")
        first, told = _image_and_rest(dataset[0], self.name)
        self.text = isinstance(told, str)
        if num_classes is not None and (self.text or told is None):
            raise ValueError(f"`num_classes={num_classes}`: the items of {self.name} have no class number")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"`value_range={value_range}` must be black and white, such as (0, 1)")
        shape = self._pixels(first, 0, None).shape
        self.image_shape = (shape[0], shape[1], shape[2])

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        images, rest = torch.empty(len(indices), *self.image_shape), []
        for place, index in enumerate(indices):
            image, told = _image_and_rest(self.dataset[index], self.name)
            pixels = self._pixels(image, index, self.image_shape[0])
            if pixels.shape != self.image_shape:
                raise ValueError(
                    f"item {index} of {self.name} has the shape {tuple(pixels.shape)}, others {self.image_shape}: "
                    "resize them in the data set's transform"
                )
            images[place] = pixels
            rest.append(told)
        if self.flip:
            flip_in_place(images, indices)
        if self.text:
            return images, [str(told) for told in rest]
        return images, None if self.num_classes is None else self._labels(rest, indices)

    def holdout(self) -> "TorchData | None":
        if self._holdout is None:
            return None
        return TorchData(
            self._holdout,
            num_classes=self.num_classes,
            value_range=self.value_range,
            class_names=self.class_names,
            name=f"{self.name}:holdout",
        )

    def _labels(self, told: list[Any], indices: Sequence[int]) -> Tensor:
        labels = torch.tensor([int(label) for label in told])
        for label, index in zip(labels.tolist(), indices, strict=True):
            if not 0 <= label < (self.num_classes or 0):
                raise ValueError(f"item {index} of {self.name} has label {label}: none of {self.num_classes} classes")
        return labels

    def _pixels(self, image: Any, index: int, channels: int | None) -> Tensor:
        """(C, H, W) float32 in [-1, 1]."""
        from PIL import Image

        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            image = torch.from_numpy(pixels_of(image, channels))
        if not isinstance(image, Tensor) or image.ndim != 3:
            kind = f"of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"{type(image).__name__}"
            raise ValueError(
                f"item {index} of {self.name} is {kind}: give images of Pillow, uint8 arrays, or tensors (C, H, W)"
            )
        if image.dtype == torch.uint8:
            black, white = 0.0, 255.0
        elif not image.is_floating_point():
            raise ValueError(f"item {index} of {self.name} is {image.dtype}: whole numbers must be uint8")
        elif self.value_range is None:
            raise ValueError(f"`value_range` is needed for the {image.dtype} images of {self.name}: (0, 1) or (-1, 1)?")
        else:
            black, white = self.value_range
        low, high = image.aminmax()
        if not (black <= low and high <= white):
            raise ValueError(
                f"item {index} of {self.name} has values from {low:.3g} to {high:.3g}: outside `value_range` "
                f"({black:g}, {white:g})"
            )
        return (image.float() - black) * (2 / (white - black)) - 1


def _image_and_rest(item: Any, name: str) -> tuple[Any, Any]:
    """The image of an item, and what comes with it or None."""
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise ValueError(f"items of {name} have {len(item)} parts: give an image, or an image and its label")
        return item[0], item[1]
    if isinstance(item, dict):
        raise ValueError(f"items of {name} are dictionaries: give an image, or an image and its label")
    return item, None
