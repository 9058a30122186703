"""Data sets that give each image a second one: pairs, and images of two domains that do not belong together."""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Literal, Self

from torch import Tensor

from sparring.data.base import Condition, ImageData
from sparring.data.decode import DecodedImages
from sparring.data.draws import derived_seed
from sparring.data.folder import ImageFolder
from sparring.data.hub import HubData
from sparring.data.loading import from_spec
from sparring.data.order import Indices, Order, Shuffled, permutation


class TwoSets(ImageData):
    """Images of one data set, the target, each with an image of another, the source.

    Shape, labels, captions and name are those of the target; `source_shape` and `sources` are of the source.
    """

    @abstractmethod
    def __init__(self) -> None: ...

    def _join(self, target: ImageData, source: ImageData, rows: Sequence[int], source_rows: Sequence[int]) -> None:
        """Sets what the constructor of a data set sets, from two data sets and the rows of each that are used."""
        self.name = target.name
        self.image_shape, self.source_shape = target.image_shape, source.image_shape
        self.num_classes, self.class_names, self.text = target.num_classes, target.class_names, target.text
        self._target, self._source = target, source
        self._rows, self._source_rows = rows, source_rows

    @abstractmethod
    def _partners(self, indices: Sequence[int]) -> Sequence[int]:
        """Which of the source rows that are used comes with each image."""

    def identity(self) -> Iterator[str]:
        yield from self._target.identity()
        yield from self._source.identity()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Condition]:
        return self._target[_picked(self._rows, indices)]

    def sources(self, indices: Sequence[int]) -> Tensor:
        return self._source[_picked(self._source_rows, self._partners(indices))][0]


class Pairs(TwoSets):
    """Images of which each belongs to another: row i of the source is the pair of row i of the target."""

    def _match(self, target: DecodedImages, source: DecodedImages) -> None:
        """Joins the images that have the same key; those without a partner stop, or are left out with a warning."""
        keys, theirs = target.keys(), source.keys()
        for data, own in ((target, keys), (source, theirs)):
            if len(set(own)) < len(own):
                twice = Counter(own).most_common(1)[0][0]
                raise ValueError(f"{data.name} has two images called {twice}: pairs are found by their names")
        places = {key: place for place, key in enumerate(theirs)}
        rows = [row for row, key in enumerate(keys) if key in places]
        alone = [*(key for key in keys if key not in places), *sorted(places.keys() - set(keys))]
        if alone:
            what = (
                f"{len(alone)} of {len(keys) + len(theirs)} images of {target.name} and {source.name} have no partner "
                f"in the other, such as {alone[0]}"
            )
            if target.on_error == "stop" or not rows:
                advice = "add or remove them, or set `on_error=skip`" if rows else "nothing is left"
                raise ValueError(f"{what}; {advice}")
            warnings.warn(f"{what}; they are left out", stacklevel=4)
        target.replaces = source.replaces = False
        self._join(target, source, rows, [places[keys[row]] for row in rows])

    def _partners(self, indices: Sequence[int]) -> Sequence[int]:
        return indices

    def holdout(self) -> Self | None:
        target, source = self._target.holdout(), self._source.holdout()
        if not (isinstance(target, DecodedImages) and isinstance(source, DecodedImages)):
            return None
        other = copy(self)
        other._match(target, source)
        return other


class PairedColumns(Pairs):
    """Pairs in one table: two of its columns hold images.

    The settings are those of `HubData`; both columns are read the same way, and turned left to right together.

    Args:
        path: one parquet file, a pattern such as "shards/*.parquet", a folder, or a name on the hub.
        source_column: the images that are translated from.
        target_column: the images that are learned.
        split: which split; parquet files are one split called train.
        label_column: a column of class names or numbers.
        text_column: a column of captions, which then take the place of labels.
        size: width and height to resize to (centre square). None: images stay as they are.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: each column as it is.
        limit: at most so many rows, chosen by a fixed permutation.
        where: keep the rows whose column has this value (or one of these), such as {"kind": "plain"}.
        flip: turn half of the training pairs left to right.
        on_error: "stop" at images that cannot be used, or "skip" them and their partners with a warning.
        holdout: the pairs to evaluate against: another parquet file (or pattern), or a split.
        holdout_share: about this share of the groups is held out and not trained on.
        group_column: rows with the same value here stay on the same side. None: each row is a group.
        group_separator: only what stands before it in that column names the group.

    Raises:
        ValueError: what `HubData` refuses; no pair is left.
    """

    def __init__(
        self,
        path: str,
        *,
        source_column: str = "source",
        target_column: str = "target",
        split: str = "train",
        label_column: str | None = None,
        text_column: str | None = None,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        limit: int | None = None,
        where: dict[str, str | int | list[str] | list[int]] | None = None,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout: str | None = None,
        holdout_share: float | None = None,
        group_column: str | None = None,
        group_separator: str | None = None,
    ):
        settings: Any = dict(split=split, size=size, pad=pad, channels=channels, limit=limit, where=where, flip=flip)
        settings |= dict(on_error=on_error, holdout=holdout, holdout_share=holdout_share)
        settings |= dict(group_column=group_column, group_separator=group_separator)
        told: Any = dict(label_column=label_column, text_column=text_column)
        self._match(
            HubData(path, image_column=target_column, **told, **settings),
            HubData(path, image_column=source_column, **settings),
        )


class PairedFolders(Pairs):
    """Pairs in two folders: images of the same name, but for its ending, belong together.

    Args:
        path: folder of the images that are learned.
        source: folder of the images that are translated from.
        size: width and height to resize to (centre square). None: images stay as they are.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: each folder as it is.
        flip: turn half of the training pairs left to right.
        on_error: "stop" at images that cannot be used or have no partner, or "skip" them with a warning.
        holdout_share: about this share of the pairs is held out and not trained on.

    Raises:
        ValueError: what `ImageFolder` refuses; with "stop", images without a partner, counted and named.
    """

    def __init__(
        self,
        path: str,
        source: str,
        *,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout_share: float | None = None,
    ):
        settings: Any = dict(size=size, pad=pad, channels=channels, flip=flip, on_error=on_error)
        settings |= dict(holdout_share=holdout_share)
        self._match(ImageFolder(path, **settings), ImageFolder(source, **settings))


class Unpaired(TwoSets):
    """Images of two domains: each target comes with any image of the source.

    The partner is drawn from the seed of the stream: an epoch of the source holds each of its images once, in an order
    of its own, and a place in the stream decides which one it is. A plain list of indices takes the sources in order.
    """

    paired = False

    def _partners(self, indices: Sequence[int]) -> Sequence[int]:
        n = len(self._source_rows)
        if not isinstance(indices, Indices):
            return [index % n for index in indices]
        seed, end = derived_seed(indices.seed, "source"), indices.first + len(indices)
        whole = n == len(self._source)
        order = self._source.order() if whole else Shuffled(n)
        coins = [derived_seed(seed, "mirrored", place) % 2 == 0 for place in range(indices.first, end)]
        return Indices(order.stretch(seed, indices.first, end), mirrored=coins, seed=seed, first=indices.first)

    def order(self) -> Order:
        return self._target.order() if len(self) == len(self._target) else super().order()


class UnpairedData(Unpaired):
    """Two data sets as two domains; `UnpairedData.of` takes them as objects.

    Args:
        path: the images that are learned, as a word that `--data` takes: a folder, a parquet file ….
        source: the images that are translated from, as a word.
        size: width and height to resize to (centre square).
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: each as it is.
        flip: turn half of the training images left to right.
        on_error: "stop" at images that cannot be used, or "skip" them with a warning.
        holdout_share: about this share of each is held out and not trained on.

    Raises:
        ValueError: what the data sets refuse.
    """

    def __init__(
        self,
        path: str,
        source: str,
        *,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout_share: float | None = None,
    ):
        settings: dict[str, Any] = dict(size=size, pad=pad or None, channels=channels, flip=flip or None)
        settings |= dict(on_error=None if on_error == "stop" else on_error, holdout_share=holdout_share)
        self._join_whole(from_spec(path, **settings), from_spec(source, **settings))

    @classmethod
    def of(cls, target: ImageData, source: ImageData) -> Self:
        """The images of `target`, each with any of `source`."""
        data = cls.__new__(cls)
        data._join_whole(target, source)
        return data

    def _join_whole(self, target: ImageData, source: ImageData) -> None:
        self._join(target, source, range(len(target)), range(len(source)))

    def _chosen(self, n: int | None, seed: int) -> list[int]:
        return self._target._chosen(n, seed)

    def holdout(self) -> Self | None:
        """The target's holdout, with that of the source if it has one."""
        target = self._target.holdout()
        if target is None:
            return None
        return self.of(target, self._source.holdout() or self._source)


class UnpairedColumns(Unpaired):
    """The two columns of a table of pairs as two domains: targets of one half of the rows, sources of the other.

    So no pair survives. The holdout keeps its pairs, to measure against.

    Args:
        path: one parquet file, a pattern such as "shards/*.parquet", a folder, or a name on the hub.
        source_column: the images that are translated from.
        target_column: the images that are learned.
        split: which split; parquet files are one split called train.
        size: width and height to resize to (centre square). None: images stay as they are.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: each column as it is.
        where: keep the rows whose column has this value (or one of these), such as {"kind": "plain"}.
        flip: turn half of the training images left to right.
        on_error: "stop" at images that cannot be used, or "skip" them with a warning.
        holdout_share: about this share of the groups is held out and not trained on.
        group_column: rows with the same value here stay on the same side of the holdout. None: each row is a group.
        group_separator: only what stands before it in that column names the group.

    Raises:
        ValueError: what `HubData` refuses, or fewer than two pairs.
    """

    def __init__(
        self,
        path: str,
        *,
        source_column: str = "source",
        target_column: str = "target",
        split: str = "train",
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        where: dict[str, str | int | list[str] | list[int]] | None = None,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout_share: float | None = None,
        group_column: str | None = None,
        group_separator: str | None = None,
    ):
        settings: Any = dict(split=split, size=size, pad=pad, channels=channels, where=where, flip=flip)
        settings |= dict(on_error=on_error, holdout_share=holdout_share)
        settings |= dict(group_column=group_column, group_separator=group_separator)
        self._pairs = PairedColumns(path, source_column=source_column, target_column=target_column, **settings)
        if len(self._pairs) < 2:
            raise ValueError(f"{self._pairs.name} has one pair; two halves need two")
        mixed = permutation(len(self._pairs), 0).tolist()
        half = (len(mixed) + 1) // 2
        rows = [self._pairs._rows[pair] for pair in sorted(mixed[:half])]
        source_rows = [self._pairs._source_rows[pair] for pair in sorted(mixed[half:])]
        self._join(self._pairs._target, self._pairs._source, rows, source_rows)

    def holdout(self) -> Pairs | None:
        return self._pairs.holdout()


def _picked(rows: Sequence[int], indices: Sequence[int]) -> Sequence[int]:
    """The rows at these places, with their place in the stream if they have one."""
    chosen = [rows[index] for index in indices]
    if not isinstance(indices, Indices):
        return chosen
    return Indices(chosen, mirrored=indices.mirrored, seed=indices.seed, first=indices.first)
