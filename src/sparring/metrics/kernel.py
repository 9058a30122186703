"""The kernel distance: unbiased squared MMD with the cubic polynomial kernel, on the full sample, with an interval."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparring.metrics.moments import Accumulator, as_double

MAX_DIM = 128  # up to here KernelMoments are kept without being asked for: d^3 / 2 numbers, 8 MB at 128


@dataclass
class KernelDistance:
    """An estimate of the squared MMD: its value (can be negative), standard error and confidence interval."""

    value: float
    standard_error: float
    interval: tuple[float, float]


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / d + 1)^3 of all pairs of rows [n, d], [m, d] -> [n, m], in their precision."""
    return torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1]).pow_(3)


def kernel_distance(x: Tensor, y: Tensor, *, confidence: float = 0.95, block: int = 512) -> KernelDistance:
    """Unbiased squared MMD of features x [n, d] and y [m, d], kernel (x . y / d + 1)^3: the U-statistic over all pairs.

    Source: Gretton et al. 2012, Eq. (3); kernel of Binkowski et al. 2018 (KID, there on Inception features, as a mean
        over random subsets; here every pair is used once, so there is no draw and no seed). Can be negative.

    The interval is normal, from the spread of the rows' shares in the statistic (the jackknife): right where the laws
    differ and too wide (up to sqrt 2) where they agree. Neither value nor interval depends on the order of the rows.

    Memory: block x block pairs, or d^3 / 2 numbers if 4 d^2 is less than n and m.
    """
    for name, rows in (("x", x), ("y", y)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"{name} has the shape {tuple(rows.shape)}, expected [at least 2 rows, d]")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features and y has {y.shape[1]}; both must come from the same network")
    n, m, d = len(x), len(y), x.shape[1]
    if d <= MAX_DIM and 4 * d * d <= min(n, m):  # then d^3 products per row take less time than its pairs
        xx, xy, yx, yy = _row_means_by_moments(x, y, block)
    else:
        xx, xy, yx, yy = _row_means_by_pairs(x, y, block)
    xx = (xx * n - _diagonal(x).cpu()) / (n - 1)
    yy = (yy * m - _diagonal(y).cpu()) / (m - 1)
    value = float(xx.mean() + yy.mean() - xy.mean() - yx.mean())
    variance = 4 * float((xx - xy).var()) / n + 4 * float((yy - yx).var()) / m
    error = math.sqrt(variance)
    width = error * float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + confidence) / 2)))
    return KernelDistance(value, error, (value - width, value + width))


class KernelMoments(Accumulator):
    """The sums that the cubic kernel distance needs, of rows in batches: constant memory, mergeable.

    The kernel (x . y / d + 1)^3 is an inner product of all products of up to three features, so their means are enough
    for the full U-statistic over all pairs. That is d^3 / 2 numbers, whatever the number of rows. Products within a
    batch are in the precision of the features, sums in float64.

    Args:
        dim: Number of features d.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.n = 0
        self._pairs = torch.triu_indices(dim, dim)
        seen = torch.where(self._pairs[0] == self._pairs[1], 1.0, 2.0)  # both orders of a pair are meant
        self._weights = seen.double()[:, None]
        self._sums = {
            "first": torch.zeros(dim, dtype=torch.float64),
            "second": torch.zeros(dim, dim, dtype=torch.float64),
            "third": torch.zeros(self._pairs.shape[1], dim, dtype=torch.float64),
            "diagonal": torch.zeros((), dtype=torch.float64),
        }

    def update(self, features: Tensor) -> None:
        self._check(features)
        rows, x = features.detach(), as_double(features)
        self.n += len(x)
        self._sums["first"] += x.sum(0).cpu()
        self._sums["second"] += (x.T @ x).cpu()
        self._sums["third"] += (self._products(rows) @ rows).cpu()
        self._sums["diagonal"] += _diagonal(x).sum().cpu()

    def merge(self, other: Self) -> Self:
        self._check_merge(other)
        self.n += other.n
        for name, value in other._sums.items():
            self._sums[name] += value
        return self

    def state(self) -> dict[str, Tensor]:
        return {"n": torch.tensor(self.n), **self._sums}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        moments = cls(len(state["first"]))
        moments.n = int(state["n"])
        moments._sums = {name: value.clone() for name, value in state.items() if name != "n"}
        return moments

    def _sum_over_pairs(self, other: "KernelMoments") -> float:
        """Sum of the kernel over all pairs of rows of self and other, the diagonal included."""
        a, b, d = self._sums, other._sums, self.dim
        cubic = (self._weights * a["third"] * b["third"]).sum() / d**3
        square = 3 * (a["second"] * b["second"]).sum() / d**2
        return float(cubic + square + 3 * (a["first"] @ b["first"]) / d + self.n * other.n)

    def distance(self, other: "KernelMoments") -> float:
        """The unbiased squared MMD to another stream; equals `kernel_distance(...).value` of the kept rows."""
        if self.n < 2 or other.n < 2:
            raise ValueError(f"a kernel distance needs at least 2 rows on both sides, got {self.n} and {other.n}")
        xx = (self._sum_over_pairs(self) - float(self._sums["diagonal"])) / (self.n * (self.n - 1))
        yy = (other._sum_over_pairs(other) - float(other._sums["diagonal"])) / (other.n * (other.n - 1))
        return xx + yy - 2 * self._sum_over_pairs(other) / (self.n * other.n)

    def row_means(self, x: Tensor) -> Tensor:
        """Mean kernel of each row of x [b, d] with all rows seen so far -> [b] float64."""
        rows, x = x.detach(), as_double(x).cpu()
        third = (self._weights * self._sums["third"]).to(rows)
        cubic = ((third.T @ self._products(rows)).cpu().double() * x.T).sum(0) / self.dim**3
        square = 3 * ((x @ self._sums["second"]) * x).sum(1) / self.dim**2
        return (cubic + square + 3 * (x @ self._sums["first"]) / self.dim) / self.n + 1

    def _products(self, x: Tensor) -> Tensor:
        """Products of two features, each pair once: [b, d] -> [d (d + 1) / 2, b]."""
        columns, (i, j) = x.T.contiguous(), self._pairs.to(x.device)
        return columns.index_select(0, i).mul_(columns.index_select(0, j))


def _diagonal(x: Tensor) -> Tensor:
    """k(x_i, x_i) of every row -> [n] float64."""
    return (as_double(x).square().sum(1) / x.shape[1] + 1) ** 3


def _row_means_by_moments(x: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean kernel of each row with all rows of x and of y: xx, xy [n], yx, yy [m], float64, diagonal included."""
    of_x, of_y = KernelMoments.of(x, block), KernelMoments.of(y, block)

    def means(rows: Tensor, seen: KernelMoments) -> Tensor:
        return torch.cat([seen.row_means(part) for part in rows.split(block)])

    return means(x, of_x), means(x, of_y), means(y, of_x), means(y, of_y)


def _row_means_by_pairs(x: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same from all pairs, each once: blocks in the precision of the features, sums over blocks in float64."""
    n, m = len(x), len(y)
    xx, xy, yx, yy = (torch.zeros(rows, dtype=torch.float64) for rows in (n, n, m, m))
    for a, b, row_sums, column_sums in ((x, x, xx, xx), (x, y, xy, yx), (y, y, yy, yy)):
        for i in range(0, len(a), block):
            for j in range(i if a is b else 0, len(b), block):
                pairs = cubic_kernel(a[i : i + block], b[j : j + block])
                row_sums[i : i + block] += pairs.sum(1).cpu().double()
                if a is not b or i != j:
                    column_sums[j : j + block] += pairs.sum(0).cpu().double()
    return xx / n, xy / m, yx / n, yy / m
