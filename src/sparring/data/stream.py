"""Images read from shards as they come up: little is read at the start, little is held, any place can be resumed."""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparring.data.base import Condition, ImageData, flip_in_place, in_range
from sparring.data.decode import check_same_kind
from sparring.data.order import ShuffledGroups
from sparring.data.pixels import check_settings, decode_into, header, one_line, reason
from sparring.data.shards import ParquetShards, Row, Shards, TarShards

MOST_BROKEN = 100
"""Images in a row that cannot be used before even `on_error=skip` stops."""


class StreamData(ImageData):
    """Images in parquet or tar shards, for sets that are too large to open: nothing is decoded before it is needed.

    An epoch takes whole groups of rows (row groups of parquet files, or tar files) in a shuffled order and mixes the
    rows of as many groups as make up `shuffle_buffer`; what a process holds is bounded by that. The order is a function
    only of the seed, and any place in it can be read at once: there is no state to save, and a run goes on exactly
    where it was, also with another number of processes or workers.

    Args:
        path: one shard or a pattern such as "shards/*.tar": .parquet (here, or at hf://, s3://, gs://) or .tar.
        image_column: None: the first column (in a tar: the file of a row) that holds images.
        label_column: a column of class numbers; in a tar an ending, such as "cls".
        text_column: a column of captions; in a tar an ending, such as "txt".
        num_classes: if the shards do not know it.
        size: width and height to resize to (centre square). None: that of the first image; others cannot be used.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB.
        shuffle_buffer: images that are mixed at a time, at least.
        flip: turn half of the training images left to right.
        on_error: what to do when an image cannot be used: "stop", or "skip" to the next one with a warning.
        holdout: shards with the images to evaluate against.

    Raises:
        ValueError: a setting out of range, nothing there, no such column, shards that cannot be read.
    """

    def __init__(
        self,
        path: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        text_column: str | None = None,
        num_classes: int | None = None,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] = 3,
        shuffle_buffer: int = 4096,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout: str | None = None,
    ):
        path = os.path.expanduser(path)
        check_settings(size, pad, channels, on_error)
        if shuffle_buffer < 1:
            raise ValueError(f"`shuffle_buffer={shuffle_buffer}` must be at least 1")
        if label_column is not None and text_column is not None:
            raise ValueError(
                f"`label_column={label_column}` and `text_column={text_column}`: a network takes one of them"
            )
        if (num_classes or 1) < 1 or (num_classes is not None and label_column is None):
            raise ValueError(f"`num_classes={num_classes}` must be at least 1 and belongs to `label_column`")
        shards: Shards
        if path.endswith(".parquet"):
            kind = "label" if label_column else "text" if text_column else None
            shards = ParquetShards(path, image_column, label_column or text_column, kind)
        elif path.endswith(".tar"):
            shards = TarShards(path, image_column, label_column or text_column)
        else:
            raise ValueError(f"`path={path}` must end in .parquet or .tar")
        if not shards.sizes:
            raise ValueError(f"`path={path}`: the shards hold no images")
        if label_column is not None:
            self.class_names = shards.class_names
            self.num_classes = num_classes if shards.class_names is None else len(shards.class_names)
            if self.num_classes is None:
                raise ValueError(f"`num_classes` is needed: the shards do not say it for `label_column={label_column}`")
        self.text = text_column is not None
        self.name = _name(path)
        self.size, self.pad, self.flip, self.on_error = size, pad, flip, on_error
        self._order = ShuffledGroups(shards.sizes, shuffle_buffer)
        self._window = Window(shards, shuffle_buffer + max(shards.sizes))
        width, height = (size, size) if size is not None else self._first_size()
        self.image_shape = (channels, height + 2 * pad, width + 2 * pad)
        self._holdout = holdout
        self._settings: dict[str, Any] = dict(image_column=image_column, label_column=label_column)
        self._settings |= dict(text_column=text_column, num_classes=num_classes, channels=channels)

    def __len__(self) -> int:
        return len(self._order)

    def order(self) -> ShuffledGroups:
        return self._order

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        pixels = np.zeros((len(indices), *self.image_shape), np.uint8)
        conditions: Any = [self._decode_near(index, out) for index, out in zip(indices, pixels, strict=True)]
        images = torch.from_numpy(pixels)
        if self.flip:
            flip_in_place(images, indices)
        if self.num_classes is not None:
            return in_range(images), torch.tensor(conditions)
        return in_range(images), conditions if self.text else None

    def identity(self) -> Iterable[str]:
        return self._window.shards.identity()

    def holdout(self) -> "StreamData | None":
        if self._holdout is None:
            return None
        height = self.image_shape[1] - 2 * self.pad
        square = height == self.image_shape[2] - 2 * self.pad
        size = height if self.size is None and square else self.size
        other = StreamData(self._holdout, size=size, pad=self.pad, on_error=self.on_error, **self._settings)
        check_same_kind(self, other)
        return other

    def _chosen(self, n: int | None, seed: int) -> list[int]:
        """The first n of the order of a seed, so that few groups are read."""
        if n is None or not 1 <= n <= len(self):
            return super()._chosen(n, seed)
        return self._order.rows(seed, 0, 0, n)

    def _first_size(self) -> tuple[int, int]:
        for index in range(min(len(self), MOST_BROKEN)):
            source = self._row(index)[0]
            try:
                return header(source)[1]
            except Exception as error:
                self._cannot(index, error)
        raise ValueError(f"the first {MOST_BROKEN} images of {self.name} cannot be used")

    def _row(self, index: int) -> Row:
        group = int(np.searchsorted(self._order.ends, index, "right"))
        return self._window[group][index - int(self._order.ends[group])]

    def _decode_near(self, index: int, out: np.ndarray) -> str | int | None:
        """Decodes an image, or the next one that can be used; what belongs to it."""
        for shift in range(min(len(self), MOST_BROKEN)):
            near = (index + shift) % len(self)
            source, cell = self._row(near)
            try:
                condition = self._condition(cell)
                decode_into(out, source, self.size, self.pad)
            except Exception as error:  # Pillow raises nearly anything on a broken file
                self._cannot(near, error)
            else:
                return condition
        raise ValueError(f"{MOST_BROKEN} images of {self.name} in a row cannot be used, from number {index} on")

    def _condition(self, cell: Any) -> str | int | None:
        """What a row says about its image; raises ValueError if it does not say it."""
        if self.text:
            if not (isinstance(cell, str) and cell.strip()):
                raise ValueError("no caption")
            return cell.strip()
        if self.num_classes is None:
            return None
        try:
            label = int(cell)
        except (TypeError, ValueError):
            raise ValueError("no label" if cell is None else f"label {str(cell)[:20]!r} is not a number") from None
        if not 0 <= label < self.num_classes:
            raise ValueError(f"label {label} is none of {self.num_classes} classes")
        return label

    def _cannot(self, index: int, error: Exception) -> None:
        """Says that an image cannot be used, as an error or, with `on_error=skip`, as a warning."""
        group = int(np.searchsorted(self._order.ends, index, "right"))
        row = index - int(self._order.ends[group] - self._order.sizes[group])
        what = one_line(f"{self._window.shards.name_of_row(group, row)} cannot be used ({reason(error)})")
        if self.on_error == "stop":
            raise ValueError(f"{what}; repair or remove it, or set `on_error=skip`") from error
        warnings.warn(f"{what}; the next one takes its place", stacklevel=5)


class Window:
    """The groups of rows that are open, those used last, with at most so many rows; a copy of it is empty.

    Args:
        shards: where the groups are.
        most_rows: at least as many as the largest group has.
    """

    def __init__(self, shards: Shards, most_rows: int):
        self.shards = shards
        self.most_rows = most_rows
        self.opened: dict[int, Sequence[Row]] = {}

    def __getitem__(self, group: int) -> Sequence[Row]:
        rows = self.opened.pop(group, None)
        if rows is None:
            while self.rows_held() + self.shards.sizes[group] > self.most_rows:
                self.opened.pop(next(iter(self.opened)))
            rows = self.shards.open(group)
        self.opened[group] = rows
        return rows

    def rows_held(self) -> int:
        return sum(self.shards.sizes[group] for group in self.opened)

    def __reduce__(self) -> tuple[type["Window"], tuple[Shards, int]]:
        return Window, (self.shards, self.most_rows)


def _name(path: str) -> str:
    """The file's name, or for a pattern that of the folder."""
    file = Path(path)
    return (file.parent.name or file.stem) if "*" in file.name or "?" in file.name else file.stem
