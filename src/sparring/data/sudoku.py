"""Sudoku of 4x4 cells as a data set: every grid that there is, and puzzles of them."""

from collections.abc import Sequence
from functools import cache
from itertools import permutations, product
from typing import Literal

import torch
from torch import Tensor

from sparring.data.base import ImageData
from sparring.data.draws import derived_seed

SIDE, BOX = 4, 2
PUZZLES = 20  # of each grid
TRAINED = 216  # grids of 288


@cache
def graph() -> Tensor:
    """[16, 16] whether two cells share a row, a column or a box; a cell shares all with itself."""
    cells = list(product(range(SIDE), range(SIDE)))
    alike = [[a == c or b == d or (a // BOX, b // BOX) == (c // BOX, d // BOX) for c, d in cells] for a, b in cells]
    return torch.tensor(alike)


def is_solved(grids: Tensor) -> Tensor:
    """[B] whether no two cells of a row, column or box of values [B, 16] are equal."""
    other = graph() & ~torch.eye(SIDE**2, dtype=torch.bool)
    return ~((grids[:, :, None] == grids[:, None]) & other.to(grids.device)).flatten(1).any(1)


@cache
def every_grid() -> Tensor:
    """[288, 16] the values 0 to 3 of every solved grid, in a fixed random order."""
    rows = list(permutations(range(SIDE)))
    all_rows = torch.tensor([sum(four, ()) for four in product(rows, repeat=SIDE)])
    grids = all_rows[is_solved(all_rows)]
    return grids[torch.randperm(len(grids), generator=torch.Generator().manual_seed(0))]


class Sudoku(ImageData):
    """Solved grids of 4x4 cells, each as an image (1, 16, 4): a row for each cell, +1 for its value and -1 for others.

    The source of a grid is a puzzle (1, 16, 4): the rows of the cells that are known, and 0 elsewhere. Grids are split,
    and each has 20 puzzles.

    Args:
        split: "train", 216 of the 288 grids, or "holdout", the rest.
        clues: cells that are known.

    Raises:
        ValueError: another split, or clues that are not 0 to 15.
    """

    name = "sudoku"
    image_shape = (1, SIDE**2, SIDE)
    source_shape = (1, SIDE**2, SIDE)
    pictures = False

    def __init__(self, split: Literal["train", "holdout"] = "train", *, clues: int = 6) -> None:
        if split not in ("train", "holdout"):
            raise ValueError(f"`split={split}` is train or holdout")
        if not 0 <= clues < SIDE**2:
            raise ValueError(f"`clues={clues}` must lie in 0 to {SIDE**2 - 1}")
        self.clues = clues
        self.split = split
        self.grids = every_grid()[:TRAINED] if split == "train" else every_grid()[TRAINED:]

    def __len__(self) -> int:
        return PUZZLES * len(self.grids)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, None]:
        return encoded(self.grids[torch.as_tensor(list(indices)) // PUZZLES]), None

    def sources(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._puzzle(int(index)) for index in indices])

    def _puzzle(self, index: int) -> Tensor:
        seed = derived_seed(self.split, self.clues, index)
        known = torch.zeros(SIDE**2)
        known[torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(seed))[: self.clues]] = 1
        return encoded(self.grids[index // PUZZLES][None])[0] * known[:, None]

    def holdout(self) -> "Sudoku":
        return Sudoku("holdout", clues=self.clues)

    def counted(self, found: Tensor, true: Tensor, source: Tensor) -> dict[str, float]:
        """Shares of grids found [B, 1, 16, 4] that are `solved` and keep the source, and that are the true ones.

        More than one grid may solve a puzzle.
        """
        values, expected = found[:, 0].argmax(2), true[:, 0].argmax(2)
        known = (source[:, 0] != 0).any(2)
        kept = ((values == expected) | ~known).all(1)
        return {
            "solved": float((is_solved(values) & kept).float().mean()),
            "as_known": float((values == expected).all(1).float().mean()),
        }


def encoded(grids: Tensor) -> Tensor:
    """Images [B, 1, 16, 4] of values [B, 16]."""
    return 2.0 * torch.nn.functional.one_hot(grids, SIDE)[:, None] - 1
