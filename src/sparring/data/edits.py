"""Any images beside an edit of each, whose map is known: what translation can be checked by."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.data.base import ImageData, StoredImages
from sparring.data.draws import derived_seed
from sparring.data.loading import from_spec
from sparring.data.order import permutation
from sparring.data.pairs import TwoSets, Unpaired

Edit = Literal["invert", "edges", "blur", "thicken", "speckle"]
LOOKS = 4  # exponential variables in the mean that a speckle is


def around(x: Tensor) -> Tensor:
    """The 3x3 neighbours of every pixel, [B, C, 9, H, W]; beyond the border the nearest pixel is repeated."""
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3)
    return patches.view(len(x), x.shape[1], 9, *x.shape[2:])


def edges(x: Tensor) -> Tensor:
    """How steep images [B, C, H, W] in [-1, 1] are, by Sobel's operator: -1 if flat, 1 at a full step."""
    sides = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    both = torch.stack([sides.flatten(), sides.T.flatten()])
    gradient = torch.einsum("bckhw,dk->bcdhw", around(x), both)
    return (gradient.square().sum(2).sqrt() / 4 - 1).clamp(max=1)


def speckled(x: Tensor, random: torch.Generator) -> Tensor:
    """Light and dark of images [B, C, H, W] in [-1, 1], times a gamma variable of mean 1 and variance 1/4 a pixel.

    As radar sees: the light part reflects 1 and the dark part 0.2, and what is seen is clamped and put into [-1, 1].
    """
    gamma = -torch.rand(LOOKS, *x.shape, generator=random).clamp(min=1e-12).log().mean(0)
    return (torch.where(x > 0, 1.0, 0.2) * gamma).clamp(max=2) - 1


def edited(x: Tensor, edit: Edit, random: torch.Generator) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] after an edit."""
    known: dict[str, Callable[[], Tensor]] = {
        "invert": lambda: -x,
        "edges": lambda: edges(x),
        "blur": lambda: around(x).mean(2),
        "thicken": lambda: around(x).amax(2),
        "speckle": lambda: speckled(x, random),
    }
    return known[edit]()


class Edited(TwoSets):
    """The edits of another data set's images, the source of each being the image itself.

    All of it lies in memory, so that is for small images.

    Args:
        path: a word for the other data set, as `--data` takes it: digits, a parquet file, a folder …
        edit: "invert", "edges" (Sobel's operator), "blur" and "thicken" (mean and maximum of 3x3 pixels), or "speckle",
            light and dark with the noise of radar.
        undo: the image is learned, and the edit is its source.
        settings: of the other data set, such as {size: 16}.

    Raises:
        ValueError: an unknown edit; what the other data set refuses.
    """

    def __init__(self, path: str, edit: Edit, *, undo: bool = False, settings: dict[str, Any] | None = None):
        if edit not in get_args(Edit):
            raise ValueError(f"`edit={edit}` must be {', '.join(get_args(Edit))}")
        self.edit, self.undo = edit, undo
        self._edit(from_spec(path, **(settings or {})))

    def _edit(self, of: ImageData) -> None:
        self._of, images = of, of.images()
        random = torch.Generator().manual_seed(derived_seed(of.name, self.edit))
        both = [images, edited(images, self.edit, random)]
        source, target = (
            StoredImages(x, of.labels(), name=of.name, num_classes=of.num_classes, class_names=of.class_names)
            for x in (reversed(both) if self.undo else both)
        )
        rows = range(len(of))
        self._join(target, source, rows, rows)
        self.name = f"{of.name}-{'un' if self.undo else ''}{self.edit}"

    def _partners(self, indices: Sequence[int]) -> Sequence[int]:
        return indices

    def identity(self) -> Iterator[str]:
        yield f"{self.edit} {self.undo}"
        yield from self._of.identity()

    def holdout(self) -> "Edited | None":
        held_out = self._of.holdout()
        if held_out is None:
            return None
        other = Edited.__new__(Edited)
        other.edit, other.undo = self.edit, self.undo
        other._edit(held_out)
        return other


class UnpairedEdits(Unpaired):
    """`Edited` as two domains: targets of one half of its rows, sources of the other, so that no pair survives.

    The holdout keeps its pairs, to measure against.

    Args:
        path: a word for the other data set.
        edit: as of `Edited`.
        undo: the image is learned, and edits are the sources.
        settings: of the other data set.

    Raises:
        ValueError: what `Edited` refuses, or fewer than two images.
    """

    def __init__(self, path: str, edit: Edit, *, undo: bool = False, settings: dict[str, Any] | None = None):
        self._pairs = Edited(path, edit, undo=undo, settings=settings)
        if len(self._pairs) < 2:
            raise ValueError(f"{self._pairs.name} has one image; two halves need two")
        mixed = permutation(len(self._pairs), 0).tolist()
        half = (len(mixed) + 1) // 2
        self._join(self._pairs._target, self._pairs._source, sorted(mixed[:half]), sorted(mixed[half:]))
        self.name = self._pairs.name

    def identity(self) -> Iterator[str]:
        return self._pairs.identity()

    def holdout(self) -> Edited | None:
        return self._pairs.holdout()
