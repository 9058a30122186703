"""Images with foreign ones among them, to see what a method makes of outliers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.data.base import Condition, ImageData
from sparring.data.loading import from_spec


class WithOutliers(ImageData):
    """The images of one data set and, among them, some of another; without labels. What is held out stays clean.

    Args:
        path: a word for the images that belong, as `--data` takes it: digits, a parquet file, a folder …
        foreign: a word for the images that do not.
        share: of the images, how many are foreign; in (0, 1).
        settings: of the images that belong, such as {size: 16}.
        foreign_settings: of the others.
        seed: of the choice of the foreign images.

    Raises:
        ValueError: a share out of range, images of another shape, or fewer foreign ones than are needed; what the other
            data sets refuse.
    """

    def __init__(
        self,
        path: str,
        foreign: str,
        *,
        share: float = 0.05,
        settings: dict[str, Any] | None = None,
        foreign_settings: dict[str, Any] | None = None,
        seed: int = 0,
    ):
        self._clean, self._foreign = from_spec(path, **(settings or {})), from_spec(foreign, **(foreign_settings or {}))
        if not 0 < share < 1:
            raise ValueError(f"`share={share}` must lie between 0 and 1")
        shapes = self._clean.image_shape, self._foreign.image_shape
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`foreign={foreign}` has images of {shapes[1]} and {path} of {shapes[0]}: set "
                f"their size in `settings` and `foreign_settings`, such as {{size: {shapes[0][1]}}}"
            )
        needed = round(len(self._clean) * share / (1 - share))
        if not 0 < needed <= len(self._foreign):
            raise ValueError(
                f"`share={share}` of {path} needs {needed} foreign images; {foreign} has {len(self._foreign)}"
            )
        self.name = f"{self._clean.name}+{100 * share:g}%-{self._foreign.name}"
        self.image_shape = shapes[0]
        order = torch.randperm(len(self._foreign), generator=torch.Generator().manual_seed(seed)).tolist()
        self._mixed_in = order[:needed]

    def __len__(self) -> int:
        return len(self._clean) + len(self._mixed_in)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        images = torch.empty(len(indices), *self.image_shape)
        belongs = torch.as_tensor(indices) < len(self._clean)
        rows = [index for index in indices if index < len(self._clean)]
        others = [self._mixed_in[index - len(self._clean)] for index in indices if index >= len(self._clean)]
        if rows:
            images[belongs] = self._clean[rows][0]
        if others:
            images[~belongs] = self._foreign[others][0]
        return images, None

    def clean_and_foreign(self, n: int) -> tuple[Tensor, Tensor]:
        n = min(n, len(self._clean), len(self._foreign))
        return self._clean.images(n), self._foreign.images(n)

    def holdout(self) -> ImageData | None:
        return self._clean.holdout()

    def identity(self) -> Iterator[str]:
        yield from self._clean.identity()
        yield from self._foreign.identity()
        yield from map(str, self._mixed_in)
