"""What a data set is here, and scikit-learn's digits as the smallest real one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import Dataset

from sparring.data.order import Indices, Order, Shuffled
from sparring.data.waiting import told

Condition = Tensor | list[str] | None
"""What comes with a batch of images: class numbers (B,) int64, captions, or nothing."""


class ImageData(Dataset, ABC):
    """Images in [-1, 1], perhaps with class labels or captions, read a batch at a time.

    A new data set sets `name` and `image_shape`, the other attributes if it has them, and writes `__len__` and
    `__getitem__`; with a `source_shape` it writes `sources`, too.

    Attributes:
        name: for tables and reports.
        image_shape: (C, H, W).
        num_classes: None without labels.
        class_names: one per class, if they are known.
        text: whether each image has a caption; such a set has no labels.
        source_shape: (C, H, W) of the image that comes with each image: its pair, or one of a second domain. None
            without.
        paired: whether that image is what the image itself is made of, so that the two can be compared.
        pictures: whether neighbouring numbers belong together, as features of images take it; not so for codes.
        flip: whether half of the images of a `BatchStream` are turned left to right.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None = None
    class_names: list[str] | None = None
    text: bool = False
    source_shape: tuple[int, int, int] | None = None
    paired: bool = True
    pictures: bool = True
    flip: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        """The images (B, C, H, W), float32 in [-1, 1], and their labels or captions, of a *list* of indices."""

    def sources(self, indices: Sequence[int]) -> Tensor | None:
        """The image (B, C, H, W), float32 in [-1, 1], that comes with each image of `self[indices]`, or None without.

        Equal `Indices` give equal images, whichever process reads them.
        """
        return None

    def order(self) -> Order:
        """In which order a `BatchStream` reads the rows: any, unless some orders are much cheaper than others."""
        return Shuffled(len(self))

    def images(self, n: int | None = None, seed: int = 0) -> Tensor:
        """(n, C, H, W) float32 in [-1, 1]: the first n of a seeded permutation; all, in their order, when None."""
        chosen = self._chosen(n, seed)
        out = torch.empty(len(chosen), *self.image_shape)
        for first, (images, _) in self._in_chunks(chosen):
            out[first : first + len(images)] = images
        return out

    def source_images(self, n: int | None = None, seed: int = 0) -> Tensor | None:
        """(n, C', H', W') float32: the sources of the rows that `images(n, seed)` gives, or None without sources."""
        if self.source_shape is None:
            return None
        chosen = self._chosen(n, seed)
        rows = [self.sources(chosen[first : first + 256]) for first in range(0, len(chosen), 256)]
        return torch.cat([row for row in rows if row is not None])

    def labels(self, n: int | None = None, seed: int = 0) -> Tensor | None:
        """(n,) int64: the labels of the rows that `images(n, seed)` gives, or None without labels."""
        if self.num_classes is None:
            return None
        return torch.cat([found for _, (_, found) in self._in_chunks(self._chosen(n, seed))])

    def captions(self, n: int | None = None, seed: int = 0) -> list[str] | None:
        """The captions of the rows that `images(n, seed)` gives, or None without captions."""
        if not self.text:
            return None
        return [caption for _, (_, found) in self._in_chunks(self._chosen(n, seed)) for caption in found]

    def holdout(self) -> "ImageData | None":
        """The split to evaluate against, never trained on, or None if the data set knows none."""
        return None

    def alike(self, images: "ImageData") -> "ImageData":
        """Other images, each with a source if this data set makes sources of its images; by default as they are."""
        return images

    def clean_and_foreign(self, n: int) -> tuple[Tensor, Tensor] | None:
        """At most n images that belong and as many that are known to be outliers, or None without known outliers."""
        return None

    def speech(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Who speaks [n] and at which pitch [n, frames] in images [n, C, H, W] of voices, or None without voices."""
        return None

    def identity(self) -> Iterable[str]:
        """What tells these rows from others without reading a pixel: names and sizes of files, if there are any."""
        return ()

    def fingerprint(self) -> dict[str, Any]:
        """Number of images and a digest of `identity`, for a run to know its data again."""
        digest = hashlib.blake2b(digest_size=8)
        for part in self.identity():
            digest.update(part.encode(errors="surrogateescape") + b"\0")
        return {"images": len(self), "digest": digest.hexdigest()}

    def check_fingerprint(self, before: dict[str, Any]) -> None:
        """Raises ValueError unless these are the rows that had the fingerprint `before`."""
        now = self.fingerprint()
        if now == before:
            return
        what = f"has other images than the {now['images']}"
        if now["images"] != before["images"]:
            what = f"has {now['images']} images, not the {before['images']}"
        raise ValueError(
            f"`{self.name}` {what} that the run was started with: put them back, or start a new run from this one with "
            "--init"
        )

    def _in_chunks(self, rows: list[int]) -> Iterator[tuple[int, tuple[Tensor, Any]]]:
        firsts = range(0, len(rows), 256)
        for first in told(firsts, f"reading {len(rows)} images of {self.name}", len(firsts)):
            yield first, self[rows[first : first + 256]]

    def _chosen(self, n: int | None, seed: int) -> list[int]:
        if n is None:
            return list(range(len(self)))
        if not 1 <= n <= len(self):
            raise ValueError(f"{n} images asked of {self.name}, which has {len(self)}: ask for 1 to {len(self)}")
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n].tolist()


class StoredImages(ImageData):
    """Images that lie in memory as one tensor: float32 in [-1, 1], or uint8, a quarter of the size.

    Args:
        images: (N, C, H, W).
        labels: (N,) int64, or None.
        name: for tables and reports.
        num_classes: None: the largest label plus one.
        class_names: one per class.
        flip: turn half of the images of a `BatchStream` left to right, together with their sources.
        sources: (N, C', H', W'), the image that each image is paired with, or None.

    Raises:
        ValueError: no images, or not as many labels or sources as images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        name: str = "images",
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        flip: bool = False,
        sources: Tensor | None = None,
    ):
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(f"`images` has the shape {tuple(images.shape)}; it must be (N, C, H, W) with N >= 1")
        if labels is not None and labels.shape != images.shape[:1]:
            raise ValueError(
                f"`labels` has the shape {tuple(labels.shape)}: give one label for each of {len(images)} images"
            )
        if sources is not None and (sources.ndim != 4 or len(sources) != len(images)):
            raise ValueError(
                f"`sources` has the shape {tuple(sources.shape)}: give one image (C, H, W) for each of {len(images)}"
            )
        self.name = name
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])
        if sources is not None:
            self.source_shape = (sources.shape[1], sources.shape[2], sources.shape[3])
        if labels is not None:
            self.num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        self.class_names = class_names
        self.flip = flip
        self._images = images
        self._labels = labels
        self._sources = sources

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        labels = None if self._labels is None else self._labels[torch.as_tensor(indices, dtype=torch.int64)]
        return self._rows_of(self._images, indices), labels

    def identity(self) -> Iterable[str]:
        labels = [] if self._labels is None else self._labels.tolist()
        return map(str, (*self.image_shape, *labels))

    def sources(self, indices: Sequence[int]) -> Tensor | None:
        return None if self._sources is None else self._rows_of(self._sources, indices)

    def _rows_of(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        chosen = images[torch.as_tensor(indices, dtype=torch.int64)]
        if self.flip:
            flip_in_place(chosen, indices)
        return in_range(chosen)

    def labels(self, n: int | None = None, seed: int = 0) -> Tensor | None:
        return None if self._labels is None else self._labels[self._chosen(n, seed)]


def in_range(images: Tensor) -> Tensor:
    """uint8 0..255 as float32 in [-1, 1]; floating-point images as float32."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images.float()


def flip_in_place(images: Tensor, indices: Sequence[int]) -> None:
    """Turns those rows of (B, C, H, W) left to right whose coin in a stream's `Indices` says so."""
    if isinstance(indices, Indices):
        pixels = images.numpy()  # several times faster than indexing and flipping in torch
        pixels[indices.mirrored] = pixels[indices.mirrored, :, :, ::-1]


class Digits(StoredImages):
    """scikit-learn's digits: 1797 real 8x8 grey images of handwritten digits, shipped with that package.

    The split is fixed and every part holds each digit in the same share: 1000 for training, 297 for choosing
    (validation), 500 for the final numbers (holdout).

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository. The split is ours.

    Args:
        split: which part.
        limit: only the first so many of it, in which each digit has about the same share, too.
        classes: the digits that are kept, which are then numbered from 0; None: all.
        ratio: of their numbers of images, such as [9, 1]; as many are kept as it allows. None: all.
        only: numbers of the classes whose images are kept, with these numbers and as many classes as before; None: all.
        pad: a frame of black pixels of that width is put around each digit.

    Raises:
        ValueError: an unknown split, a limit below 1, classes that are not different digits, a ratio that does not fit
            them, `only` others, or a negative frame.
    """

    parts = {"train": slice(0, 1000), "validation": slice(1000, 1297), "holdout": slice(1297, 1797), "all": slice(1797)}

    def __init__(
        self,
        split: Literal["train", "validation", "holdout", "all"] = "train",
        *,
        limit: int | None = None,
        classes: list[int] | None = None,
        ratio: list[int] | None = None,
        only: list[int] | None = None,
        pad: int = 0,
    ) -> None:
        kept = list(range(10)) if classes is None else classes
        if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(10)):
            raise ValueError(f"`classes={kept}` must be different digits")
        if ratio is not None and (len(ratio) != len(kept) or min(ratio) < 1):
            raise ValueError(f"`ratio={ratio}` must give a number from 1 on for each of `classes={kept}`")
        if only is not None and not set() < set(only) <= set(range(len(kept))):
            raise ValueError(f"`only={only}` must be some of the class numbers 0 to {len(kept) - 1}")
        if limit is not None and limit < 1:
            raise ValueError(f"`limit={limit}` must be at least 1; leave it out for all")
        if pad < 0:
            raise ValueError(f"`pad={pad}` must not be negative")
        if split not in self.parts:
            raise ValueError(f"`split={split}` is not a split of digits: {', '.join(self.parts)}")
        images, labels = _all_digits()
        chosen = in_ratio(_stratified_order(labels)[self.parts[split]][:limit], labels, kept, ratio)
        number = torch.full((10,), -1)
        number[kept] = torch.arange(len(kept))
        if only is not None:
            chosen = chosen[torch.isin(number[labels[chosen]], torch.tensor(only))]
        super().__init__(
            F.pad(images[chosen], (pad, pad, pad, pad), value=-1.0),
            number[labels[chosen]],
            name="digits" if split == "train" else f"digits:{split}",
            num_classes=len(kept),
            class_names=[str(digit) for digit in kept],
        )
        self.split, self.classes, self.ratio, self.only, self.pad = split, classes, ratio, only, pad

    def holdout(self) -> "Digits | None":
        if self.split != "train":
            return None
        return Digits("holdout", classes=self.classes, ratio=self.ratio, only=self.only, pad=self.pad)


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) float32 in [-1, 1] and (1797,) int64, in scikit-learn's order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images / 8 - 1).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels).long()


def in_ratio(rows: Tensor, labels: Tensor, classes: list[int], ratio: list[int] | None) -> Tensor:
    """Those of the rows with one of the classes, in their order; with a ratio, the first of each."""
    of_class = [rows[labels[rows] == digit] for digit in classes]
    if ratio is not None:
        times = min(len(found) // share for found, share in zip(of_class, ratio, strict=True))
        of_class = [found[: times * share] for found, share in zip(of_class, ratio, strict=True)]
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[torch.cat(of_class)] = True
    return rows[kept[rows]]


def _stratified_order(labels: Tensor) -> Tensor:
    """A fixed order of all rows in which every stretch holds the classes in about their overall shares."""
    generator = torch.Generator().manual_seed(0)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        place[rows] = (torch.randperm(len(rows), generator=generator).double() + 0.5) / len(rows)
    return place.argsort(stable=True)
