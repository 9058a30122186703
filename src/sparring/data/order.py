"""The order of training: which rows make up batch k, for every process and micro-batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from sparring.data.draws import derived_seed


class Indices(list[int]):
    """Row numbers of one micro-batch, and their place in the stream, which decides all that is drawn with them.

    So flips and partners do not depend on the number of data workers, and a run that goes on repeats nothing. A plain
    list of indices has no place and is never flipped: evaluation sees the images as they are.

    Args:
        rows: numbers of rows.
        mirrored: one coin per row: which images a data set that flips turns.
        seed: of the stream.
        first: place of the first row in the stream; the others follow.
    """

    def __init__(self, rows: Iterable[int], *, mirrored: list[bool], seed: int, first: int):
        super().__init__(rows)
        self.mirrored = mirrored
        self.seed = seed
        self.first = first

    def part(self, rows: slice) -> "Indices":
        """Some of the rows, slice(start, stop), with their places."""
        return Indices(self[rows], mirrored=self.mirrored[rows], seed=self.seed, first=self.first + rows.start)


class Order(ABC):
    """In which order the rows of a data set come in an epoch: a pure function of seed and epoch, known at any place.

    Args:
        n: number of rows.
    """

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    @abstractmethod
    def rows(self, seed: int, epoch: int, first: int, end: int) -> list[int]:
        """The rows at the places first..end-1 of an epoch, 0 <= first <= end <= n."""

    def stretch(self, seed: int, first: int, end: int) -> list[int]:
        """The rows at the places first..end-1 of an endless stream of epochs."""
        rows: list[int] = []
        for epoch in range(first // self.n, (end - 1) // self.n + 1):
            offset = epoch * self.n
            rows += self.rows(seed, epoch, max(first - offset, 0), min(end - offset, self.n))
        return rows


class Shuffled(Order):
    """A permutation of all rows."""

    def __init__(self, n: int):
        super().__init__(n)
        self._latest: tuple[tuple[int, int], Tensor] | None = None

    def rows(self, seed: int, epoch: int, first: int, end: int) -> list[int]:
        if self._latest is None or self._latest[0] != (seed, epoch):
            self._latest = (seed, epoch), permutation(self.n, seed, epoch)
        return self._latest[1][first:end].tolist()


class ShuffledGroups(Order):
    """Groups of rows in a shuffled order, and within it stretches of whole groups whose rows are mixed.

    Who reads in this order needs only the groups of one stretch at a time: fewer than buffer + max(sizes) rows. Only
    the stretch that is read is ever laid out, so nothing here grows with the number of rows.

    Args:
        sizes: rows of each group, in the order of their numbers.
        buffer: a stretch ends with the group that brings it to so many rows.
    """

    def __init__(self, sizes: Sequence[int], buffer: int):
        self.ends = np.cumsum(sizes, dtype=np.int64)
        super().__init__(int(self.ends[-1]))
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.buffer = buffer
        self._epoch: tuple[tuple[int, int], list[np.ndarray], np.ndarray] | None = None
        self._latest: tuple[tuple[int, int, int], np.ndarray] | None = None

    def rows(self, seed: int, epoch: int, first: int, end: int) -> list[int]:
        rows: list[int] = []
        stretches, ends = self._stretches(seed, epoch)
        while first < end:
            number = int(np.searchsorted(ends, first, "right"))
            begins = int(ends[number - 1]) if number else 0
            upto = min(end, int(ends[number]))
            rows += self._mixed(seed, epoch, number, stretches[number])[first - begins : upto - begins].tolist()
            first = upto
        return rows

    def _stretches(self, seed: int, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The groups of each stretch of an epoch, and the place at which each stretch ends."""
        if self._epoch is None or self._epoch[0] != (seed, epoch):
            groups = permutation(len(self.sizes), seed, epoch).numpy()
            places = np.cumsum(self.sizes[groups])
            cuts, begins = [], 0
            while begins < self.n:  # the first group with which the stretch has its rows
                cut = min(int(np.searchsorted(places, begins + self.buffer)), len(groups) - 1)
                cuts.append(cut)
                begins = int(places[cut])
            stretches = np.split(groups, np.asarray(cuts[:-1], dtype=np.int64) + 1)
            self._epoch = (seed, epoch), stretches, places[cuts]
        return self._epoch[1:]

    def _mixed(self, seed: int, epoch: int, number: int, groups: np.ndarray) -> np.ndarray:
        """All rows of a stretch, mixed."""
        if self._latest is None or self._latest[0] != (seed, epoch, number):
            rows = np.concatenate([np.arange(self.ends[g] - self.sizes[g], self.ends[g]) for g in groups])
            self._latest = (seed, epoch, number), rows[permutation(len(rows), seed, epoch, number).numpy()]
        return self._latest[1]


def permutation(n: int, seed: int, *parts: int) -> Tensor:
    """A permutation of 0..n-1."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(seed, "order", *parts)))


class BatchStream:
    """An endless stream of index lists; batch k is a pure function of (seed, k), so resuming needs no saved state.

    Each epoch holds all rows once, in the order in which the data set wants to be read; batches run across the border
    of two epochs, so no row is dropped.
    Made for `DataLoader(data, sampler=stream, batch_size=None, num_workers=w)`, whose order does not depend on w.

    Process `rank` of `world` gets, for each batch, `accumulation` micro-batches of b = batch_size / (accumulation *
    world) rows: micro-batch m is rows [(m * world + rank) * b, (m * world + rank + 1) * b) of the global batch. Over m
    and rank these are the global batch in order.

    Args:
        order: `ImageData.order()`; a number stands for a permutation of so many rows.
        batch_size: rows of the global batch, over all processes and micro-batches.
        seed: of the order.
        start: number of the first batch, to resume.
        rank: number of this process.
        world: number of processes.
        accumulation: micro-batches per process and batch.

    Raises:
        ValueError: an empty data set, or a batch size that is not a multiple of world * accumulation.
    """

    def __init__(
        self,
        order: Order | int,
        batch_size: int,
        seed: int,
        start: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ):
        self.order = Shuffled(order) if isinstance(order, int) else order
        if len(self.order) < 1:
            raise ValueError("a data set needs at least one image to train on")
        if world < 1 or accumulation < 1:
            raise ValueError(f"`world={world}` and `accumulation={accumulation}` must be at least 1")
        if batch_size < 1:
            raise ValueError(f"`batch_size={batch_size}` must be at least 1")
        if batch_size % (world * accumulation):
            raise ValueError(
                f"`batch_size={batch_size}` must be a multiple of {world * accumulation} "
                f"(processes {world} x accumulation {accumulation}): take another, or other --trainer.accumulation"
            )
        if not (0 <= rank < world and start >= 0):
            raise ValueError(f"`rank={rank}` must lie in 0..{world - 1}, and `start={start}` must not be negative")
        self.n = len(self.order)
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.accumulation = accumulation

    def rows(self, micro: int = 0) -> slice:
        """Which rows of the global batch are this process's micro-batch, for `Draws(rows=..., total=batch_size)`."""
        size = self.batch_size // (self.world * self.accumulation)
        first = (micro * self.world + self.rank) * size
        return slice(first, first + size)

    def batch(self, step: int) -> Indices:
        """The global batch of a step: all rows, over all processes."""
        first = step * self.batch_size
        coins = torch.Generator().manual_seed(derived_seed(self.seed, "mirrored", step))
        return Indices(
            self.order.stretch(self.seed, first, first + self.batch_size),
            mirrored=(torch.rand(self.batch_size, generator=coins) < 0.5).tolist(),
            seed=self.seed,
            first=first,
        )

    def __iter__(self) -> Iterator[Indices]:
        for step in count(self.start):
            batch = self.batch(step)
            for micro in range(self.accumulation):
                yield batch.part(self.rows(micro))
