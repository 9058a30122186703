"""Data sets whose images are decoded from files, with every header read before anything starts."""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from sparring.data.base import Condition, ImageData, flip_in_place, in_range
from sparring.data.draws import derived_seed
from sparring.data.pixels import Source, check_settings, decode_into, header, one_line, reason

STORED_BYTES = 512 * 2**20
"""Sets up to this size are decoded once and kept as uint8; larger ones are decoded batch by batch."""


class DecodedImages(ImageData):
    """Images that have to be decoded, from wherever `_sources` finds their bytes.

    How an image becomes a tensor: it is turned as its EXIF tag says (JPEG), laid on white if it is transparent, made
    grey or RGB (`channels`), its centre square resized with antialias (Lanczos) to `size` (the same as resizing the
    shorter side and cropping the centre), and framed with `pad` black pixels on each side.

    Every header is read at the start, so sizes and colours are known; sets of at most 512 MB are decoded then, once.

    Args:
        name: for tables and reports.
        rows: numbers of the images in the source.
        labels: (source rows,) int64, or None.
        captions: one per source row, or None; an image whose caption is missing or blank cannot be used.
        class_names: one per class, if they are known.
        num_classes: None without labels.
        size: width and height to resize to. None: images stay as they are and must all have one size.
        pad: black pixels added on each side, after resizing: 28x28 with `pad=2` is 32x32.
        channels: 1 grey, 3 RGB, None: grey when all images are grey, RGB otherwise.
        flip: turn half of the images of a `BatchStream` left to right.
        on_error: what to do with images that cannot be decoded or have the wrong size: "stop" raises; "skip" leaves
            them out with a warning.
        held_out: numbers of the images that `holdout_share` keeps from training.

    Attributes:
        replaces: with "skip", whether an image that breaks during training gives way to the next one. Not so for
            images that come with those of another set.

    Raises:
        ValueError: a setting out of range; no usable image; with "stop", images that cannot be used, counted and named.
    """

    replaces = True

    def __init__(
        self,
        *,
        name: str,
        rows: list[int],
        labels: Tensor | None,
        captions: list[str | None] | None,
        class_names: list[str] | None,
        num_classes: int | None,
        size: int | None,
        pad: int,
        channels: Literal[1, 3] | None,
        flip: bool,
        on_error: Literal["stop", "skip"],
        held_out: Sequence[int] = (),
    ):
        check_settings(size, pad, channels, on_error)
        self.name = name
        self.class_names = class_names
        self.num_classes = num_classes
        self.size, self.pad, self.channels, self.flip, self.on_error = size, pad, channels, flip, on_error
        self._rows = rows
        self._held_out = list(held_out)
        self._source_labels = labels
        self._source_captions = captions
        self.text = captions is not None
        self._stored: Tensor | None = None
        self._prepare()

    @abstractmethod
    def _sources(self, rows: Sequence[int]) -> list[Source]:
        """Where the bytes of these source rows are."""

    @abstractmethod
    def _label_of_row(self, row: int) -> str:
        """What to call a source row in a message: its file name or its number."""

    def _key_of_row(self, row: int) -> str:
        """What a source row has in common with the row of another set that belongs to it."""
        return str(row)

    def keys(self) -> list[str]:
        """A name for each image, by which the images of two sets belong together."""
        return [self._key_of_row(row) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        if self._stored is None:
            images, rows = self._decode_now(indices)
        else:
            images, rows = self._stored[torch.as_tensor(indices, dtype=torch.int64)], [self._rows[i] for i in indices]
        if self.flip:
            flip_in_place(images, indices)
        return in_range(images), self._captions_of(rows) if self.text else self._labels_of(rows)

    def labels(self, n: int | None = None, seed: int = 0) -> Tensor | None:
        return self._labels_of([self._rows[i] for i in self._chosen(n, seed)])

    def captions(self, n: int | None = None, seed: int = 0) -> list[str] | None:
        return self._captions_of([self._rows[i] for i in self._chosen(n, seed)])

    def _labels_of(self, rows: list[int]) -> Tensor | None:
        return None if self._source_labels is None else self._source_labels[rows]

    def _captions_of(self, rows: list[int]) -> list[str] | None:
        captions = self._source_captions
        return None if captions is None else [captions[row] or "" for row in rows]

    def _other_side(self) -> Self | None:
        """The rows that `holdout_share` keeps from training, as a set of their own; None without it."""
        if not self._held_out:
            return None
        other = copy(self)
        other.name, other.flip, other.channels = f"{self.name}:holdout", False, 1 if self.image_shape[0] == 1 else 3
        other._rows, other._held_out, other._stored = self._held_out, [], None
        other._prepare()
        check_same_kind(self, other)
        return other

    def _prepare(self) -> None:
        """Finds the common shape, decodes small sets, and leaves in `_rows` the images that can be used."""
        bad: dict[int, str] = {}
        if self._source_captions is not None:
            bad |= {row: "no caption" for row in self._rows if not (self._source_captions[row] or "").strip()}
        headers: dict[int, tuple[int, tuple[int, int]]] = {}
        for row, source in self._each([row for row in self._rows if row not in bad]):
            try:
                headers[row] = header(source)
            except Exception as error:  # Pillow raises nearly anything on a broken file
                bad[row] = reason(error)
        self._warn_of_large(headers)
        if headers:
            common = Counter(size for _, size in headers.values()).most_common(1)[0][0]
            width, height = common if self.size is None else (self.size, self.size)
            if self.size is None:
                for row, (_, (w, h)) in headers.items():
                    if (w, h) != common:
                        bad[row] = f"{w}x{h} pixels, most are {width}x{height}: set `size`"
            usable = [row for row in self._rows if row not in bad]
            colours = self.channels or max(headers[row][0] for row in usable)
            self.image_shape = (colours, height + 2 * self.pad, width + 2 * self.pad)
            if len(usable) * int(np.prod(self.image_shape)) <= STORED_BYTES:
                self._stored = self._decode_all(usable, bad)
        total = len(self._rows)
        self._rows = [row for row in self._rows if row not in bad]
        if bad and (self.on_error == "stop" or not self._rows):
            advice = "repair or remove them, or set `on_error=skip`" if self._rows else "nothing is left"
            raise ValueError(f"{self._complaint(bad, total)}; {advice}")
        if bad:
            warnings.warn(f"{self._complaint(bad, total)}; they are left out", stacklevel=4)

    def _warn_of_large(self, headers: dict[int, tuple[int, tuple[int, int]]]) -> None:
        """Says in one line what Pillow would say of each very large image, without its name."""
        from PIL import Image

        most = Image.MAX_IMAGE_PIXELS or float("inf")
        large = {row: width * height for row, (_, (width, height)) in headers.items() if width * height > most}
        if large:
            row, pixels = next(iter(large.items()))
            warnings.warn(
                f"{len(large)} of {len(headers)} images of {self.name} have more than {most / 1e6:.0f} megapixels, "
                f"such as {self._label_of_row(row)} ({pixels / 1e6:.0f}): reading them takes time and memory",
                stacklevel=5,
            )

    def _decode_all(self, rows: list[int], bad: dict[int, str]) -> Tensor:
        """uint8 (usable rows, C, H, W); rows that turn out to be broken are added to `bad` and left out."""
        images = np.zeros((len(rows), *self.image_shape), np.uint8)
        count = 0
        for row, source in self._each(rows):
            try:
                decode_into(images[count], source, self.size, self.pad)
                count += 1
            except Exception as error:
                bad[row] = reason(error)
        return torch.from_numpy(images)[:count]

    def _decode_now(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """uint8 (B, C, H, W) and the source rows; a broken image stops, or gives way to the next one that is whole."""
        images = np.zeros((len(indices), *self.image_shape), np.uint8)
        rows = []
        for place, index in enumerate(indices):
            for shift in range(len(self)):
                row = self._rows[(index + shift) % len(self)]
                try:
                    decode_into(images[place], self._sources([row])[0], self.size, self.pad)
                    rows.append(row)
                    break
                except Exception as error:
                    complaint = self._complaint({row: reason(error)}, len(self))
                    if self.on_error == "stop" or not self.replaces:
                        advice = ", or set `on_error=skip`" if self.replaces else " and start again"
                        raise ValueError(f"{complaint}; repair or remove it{advice}") from error
                    warnings.warn(f"{complaint}; the next image takes its place", stacklevel=3)
            else:
                raise ValueError(f"no image of {self.name} can be decoded any more")
        return torch.from_numpy(images), rows

    def _each(self, rows: list[int]) -> Iterator[tuple[int, Source]]:
        for first in range(0, len(rows), 256):
            chunk = rows[first : first + 256]
            yield from zip(chunk, self._sources(chunk), strict=True)

    def _complaint(self, bad: dict[int, str], total: int) -> str:
        named = [f"{self._label_of_row(row)} ({bad[row]})" for row in sorted(bad)[:3]]
        if len(bad) > len(named):
            named.append("...")
        return one_line(f"{len(bad)} of {total} images of {self.name} cannot be used: {', '.join(named)}")


def split_off(rows: list[int], groups: Callable[[int], str], share: float) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to hold out; all rows of a group lie on one side, which only its name decides.

    Args:
        rows: what is split.
        groups: the name of a row's group.
        share: of the groups that is held out, about.

    Raises:
        ValueError: a share out of range, or one side without rows.
    """
    if not 0 < share < 1:
        raise ValueError(f"`holdout_share={share}` must lie between 0 and 1, such as 0.1")
    sides: tuple[list[int], list[int]] = ([], [])
    for row in rows:
        sides[derived_seed("holdout", groups(row)) < share * 2**63].append(row)
    if not all(sides):
        empty = "hold out" if sides[0] else "train on"
        raise ValueError(f"`holdout_share={share}` leaves no row to {empty}: {len(rows)} rows in too few groups")
    return sides


def check_same_kind(data: ImageData, holdout: ImageData) -> None:
    """Raises ValueError if a holdout has other shapes or classes than the data it belongs to."""
    if holdout.image_shape != data.image_shape:
        raise ValueError(
            f"holdout {holdout.name} has images of shape {holdout.image_shape}, {data.name} of {data.image_shape}: "
            "set `size`"
        )
    if holdout.class_names is not None and holdout.class_names != data.class_names:
        raise ValueError(f"holdout {holdout.name} has other classes than {data.name}: {holdout.class_names}")
