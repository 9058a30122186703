"""Sorting as a data set: numbers, the same numbers in order, and the permutation that orders them."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.data.base import ImageData
from sparring.data.draws import derived_seed

SPLITS = {"train": 20000, "holdout": 2000}
"""Problems of each split."""


def numbers_of(variables: int) -> int:
    """How many numbers n are sorted if the problem has 2 n^2 + 2 n variables.

    Raises:
        ValueError: no n has so many.
    """
    n = next((n for n in range(1, variables) if 2 * n * (n + 1) >= variables), 0)
    if 2 * n * (n + 1) != variables:
        raise ValueError(f"`variables={variables}`: sorting n numbers has 2 n (n + 1), such as 12, 24, 40 or 60")
    return n


@cache
def graph(n: int) -> Tensor:
    """[V, V] bool, V = 2 n^2 + 2 n: whether a factor holds both of two variables, and True for a variable with itself.

    The variables are the numbers u, the ordered ones s, the permutation P (row after row) and K_ij = P_ij u_j, so that
    s_i is the sum of a row of K. Source: Weilbach et al. (arXiv 2210.11633), sorting.
    """
    u, s, p, k = places(n)
    pairs = [*zip(s, s[1:], strict=False)]
    for i in range(n):
        for j in range(n):
            pairs += [(u[j], k[i][j]), (s[i], k[i][j]), (p[i][j], k[i][j])]
            pairs += [(p[i][j], other) for other in p[i]] + [(p[i][j], row[j]) for row in p]
    edges = torch.eye(2 * n * (n + 1), dtype=torch.bool)
    for one, other in pairs:
        edges[one, other] = edges[other, one] = True
    return edges


def places(n: int) -> tuple[list[int], list[int], list[list[int]], list[list[int]]]:
    """Where the variables u_j, s_i, P_ij and K_ij stand."""
    rows = [list(range(first, first + n)) for first in range(0, 2 * n * (n + 1), n)]
    return rows[0], rows[1], rows[2 : 2 + n], rows[2 + n :]


def continuous(n: int) -> list[int]:
    """The variables that are numbers: all but the permutation."""
    return [*range(2 * n), *range(2 * n + n * n, 2 * n * (n + 1))]


class Sorting(ImageData):
    """Sorted numbers, each problem as an image (1, 2 n^2 + 2 n, 2) with a row for each variable of `graph`.

    Numbers are uniform in [-1, 1] and stand in the first column beside a 0; an entry of the permutation is (-1, 1)
    where it is 1 and (1, -1) where it is 0. The source is a problem: the rows of the numbers u, and 0 elsewhere.

    Args:
        split: "train", 20000 problems, or "holdout", 2000 others.
        numbers: n, how many are sorted.

    Raises:
        ValueError: another split, or fewer than two numbers.
    """

    name = "sorting"
    pictures = False

    def __init__(self, split: Literal["train", "holdout"] = "train", *, numbers: int = 5) -> None:
        if split not in SPLITS:
            raise ValueError(f"`split={split}` is train or holdout")
        if numbers < 2:
            raise ValueError(f"`numbers={numbers}` must be 2 or more")
        self.split, self.numbers = split, numbers
        self.image_shape = self.source_shape = (1, 2 * numbers * (numbers + 1), 2)
        draws = torch.Generator().manual_seed(derived_seed(split, numbers))
        self.drawn = 2 * torch.rand(SPLITS[split], numbers, generator=draws) - 1

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, None]:
        drawn = self.drawn[torch.as_tensor(list(indices))]
        ordered, order = drawn.sort(1)
        permutation = F.one_hot(order, self.numbers)
        summands = (permutation * drawn[:, None]).flatten(1)
        discrete = 2.0 * F.one_hot(permutation.flatten(1), 2) - 1
        parts = [_in_first(drawn), _in_first(ordered), discrete, _in_first(summands)]
        return torch.cat(parts, 1)[:, None], None

    def sources(self, indices: Sequence[int]) -> Tensor:
        known = torch.zeros(self.image_shape[1], 1)
        known[: self.numbers] = 1
        return self[indices][0] * known

    def holdout(self) -> "Sorting":
        return Sorting("holdout", numbers=self.numbers)

    def counted(self, found: Tensor, true: Tensor, source: Tensor) -> dict[str, float]:
        """`solved`: share of images found [B, 1, V, 2] with the permutation of the true ones."""
        rows = slice(2 * self.numbers, 2 * self.numbers + self.numbers**2)
        equal = found[:, 0, rows].argmax(2) == true[:, 0, rows].argmax(2)
        return {"solved": float(equal.all(1).float().mean())}


def _in_first(numbers: Tensor) -> Tensor:
    """Rows [B, n, 2] with the numbers [B, n] in the first column."""
    return torch.stack([numbers, torch.zeros_like(numbers)], 2)
