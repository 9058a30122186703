"""Any images, each with its own low resolution beside it: what super-resolution learns from."""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d

from sparring.data.base import Condition, ImageData
from sparring.data.loading import from_spec
from sparring.data.order import Order


class LowResolution(ImageData):
    """The images of another data set; the source of each is that image, every `factor` x `factor` pixels averaged.

    Args:
        path: a word for the other data set, as `--data` takes it: digits, a parquet file, a folder …
        factor: pixels of the image along a side of one pixel of the source.
        settings: of the other data set, such as {size: 16}.

    Raises:
        ValueError: a factor below 2, or one that does not divide the images; what the other data set refuses.
    """

    def __init__(self, path: str, *, factor: int = 2, settings: dict[str, Any] | None = None):
        self._wrap(from_spec(path, **(settings or {})), factor)

    def _wrap(self, images: ImageData, factor: int) -> None:
        channels, height, width = images.image_shape
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"`factor={factor}` must be 2 or more and divide the {width}x{height} pixels")
        self.factor = factor
        self.name = images.name
        self.image_shape, self.source_shape = images.image_shape, (channels, height // factor, width // factor)
        self.num_classes, self.class_names, self.text = images.num_classes, images.class_names, images.text
        self._of = images

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        return self._of[indices]

    def sources(self, indices: Sequence[int]) -> Tensor:
        return avg_pool2d(self._of[indices][0], self.factor)

    def order(self) -> Order:
        return self._of.order()

    def identity(self) -> Iterable[str]:
        return self._of.identity()

    def fingerprint(self) -> dict[str, Any]:
        return self._of.fingerprint()

    def holdout(self) -> ImageData | None:
        held_out = self._of.holdout()
        return None if held_out is None else self.alike(held_out)

    def alike(self, images: ImageData) -> ImageData:
        if images.source_shape is not None:
            return images
        other = copy(self)
        other._wrap(images, self.factor)
        return other
