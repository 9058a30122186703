"""The order of training: which rows make up batch k, for every process and micro-batch."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from sparring.data.draws import derived_seed


class Indices(list[int]):
    """Row numbers of one micro-batch, with one coin per row: `mirrored` says which images a data set that flips turns.

    The coins belong to the place in the stream, so flips do not depend on the number of data workers. A plain list of
    indices carries no coins and is never flipped: evaluation sees the images as they are.
    """

    mirrored: list[bool]


class BatchStream:
    """An endless stream of index lists; batch k is a pure function of (seed, k), so resuming needs no saved state.

    Each epoch is a seeded permutation of all rows; batches run across the border of two epochs, so no row is dropped.
    Made for `DataLoader(data, sampler=stream, batch_size=None, num_workers=w)`, whose order does not depend on w.

    Process `rank` of `world` gets, for each batch, `accumulation` micro-batches of b = batch_size / (accumulation *
    world) rows: micro-batch m is rows [(m * world + rank) * b, (m * world + rank + 1) * b) of the global batch. Over m
    and rank these are the global batch in order.

    Args:
        n: number of rows of the data set.
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
        n: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ):
        if n < 1:
            raise ValueError(f"`n={n}`: a data set needs at least one image to train on")
        if world < 1 or accumulation < 1:
            raise ValueError(f"`world={world}` and `accumulation={accumulation}` must be at least 1")
        if batch_size < 1 or batch_size % (world * accumulation):
            raise ValueError(
                f"`batch_size={batch_size}` must be a multiple of {world * accumulation} "
                f"({world} processes x {accumulation} micro-batches)"
            )
        if not (0 <= rank < world and start >= 0):
            raise ValueError(f"`rank={rank}` must lie in 0..{world - 1}, and `start={start}` must not be negative")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.accumulation = accumulation
        self._latest: tuple[int, Tensor] | None = None

    def rows(self, micro: int = 0) -> slice:
        """Which rows of the global batch are this process's micro-batch, for `Draws(rows=..., total=batch_size)`."""
        size = self.batch_size // (self.world * self.accumulation)
        first = (micro * self.world + self.rank) * size
        return slice(first, first + size)

    def batch(self, step: int) -> Indices:
        """The global batch of a step: all rows, over all processes."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        batch = Indices()
        for epoch in range(first // self.n, (end - 1) // self.n + 1):
            offset = epoch * self.n
            batch += self._permutation(epoch)[max(first - offset, 0) : end - offset].tolist()
        coins = torch.Generator().manual_seed(derived_seed(self.seed, "mirrored", step))
        batch.mirrored = (torch.rand(self.batch_size, generator=coins) < 0.5).tolist()
        return batch

    def __iter__(self) -> Iterator[Indices]:
        for step in count(self.start):
            batch = self.batch(step)
            for micro in range(self.accumulation):
                rows = self.rows(micro)
                indices = Indices(batch[rows])
                indices.mirrored = batch.mirrored[rows]
                yield indices

    def _permutation(self, epoch: int) -> Tensor:
        if self._latest is None or self._latest[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
            self._latest = epoch, torch.randperm(self.n, generator=generator)
        return self._latest[1]
