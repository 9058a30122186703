"""The kernel distance: unbiased squared MMD with the cubic polynomial kernel, on the full sample, with an interval."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparring.metrics.moments import _gather_states, as_double

_EXPLICIT_DIM = 64  # up to here the cubic kernel's own features (d^3 of them) are cheaper than a matrix of all pairs


@dataclass
class KernelDistance:
    """An estimate of the squared MMD: its value (can be negative), standard error and confidence interval."""

    value: float
    standard_error: float
    interval: tuple[float, float]


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / d + 1)^3 of all pairs of rows [n, d], [m, d] -> [n, m] float64, without keeping more than these."""
    return (x @ y.T).double().div_(x.shape[1]).add_(1).pow_(3)


def kernel_distance(x: Tensor, y: Tensor, *, confidence: float = 0.95, block: int = 2048) -> KernelDistance:
    """Unbiased squared MMD of features x [n, d] and y [m, d], kernel (x . y / d + 1)^3: the U-statistic over all pairs.

    Source: Gretton et al. 2012, Eq. (3); kernel of Binkowski et al. 2018 (KID, there on Inception features, as a mean
        over random subsets; here every pair is used once, so there is no draw and no seed). Can be negative.

    The interval is normal, from the spread of the rows' shares in the statistic (the jackknife): right where the laws
    differ and too wide (up to sqrt 2) where they agree. Neither value nor interval depends on the order of the rows.

    Memory: block x block, or d^3 / 2 numbers where d <= 64.
    """
    for name, rows in (("x", x), ("y", y)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"{name} has the shape {tuple(rows.shape)}, expected [at least 2 rows, d]")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features and y has {y.shape[1]}; both must come from the same network")
    n, m = len(x), len(y)
    xx, xy = _row_means(x, x, block), _row_means(x, y, block)
    yy, yx = _row_means(y, y, block), _row_means(y, x, block)
    xx = (xx * n - _diagonal(x)) / (n - 1)
    yy = (yy * m - _diagonal(y)) / (m - 1)
    value = float(xx.mean() + yy.mean() - xy.mean() - yx.mean())
    variance = 4 * float((xx - xy).var()) / n + 4 * float((yy - yx).var()) / m
    error = math.sqrt(variance)
    width = error * float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + confidence) / 2)))
    return KernelDistance(value, error, (value - width, value + width))


class KernelMoments:
    """The sums that the cubic kernel distance needs, of rows in batches: constant memory, mergeable, float64.

    The kernel (x . y / d + 1)^3 is an inner product of all products of up to three features, so their means are enough
    for the full U-statistic over all pairs. That is d^3 / 2 numbers, whatever the number of rows: for small networks (d
    <= 128, say).

    Args:
        dim: Number of features d.
    """

    def __init__(self, dim: int) -> None:
        if dim > 256:
            raise ValueError(
                f"dim={dim}: the cubic moments are for at most 256 features; use kernel_distance on kept features"
            )
        self.dim = dim
        self.n = 0
        self._pairs = torch.triu_indices(dim, dim)
        self._sums = {
            "first": torch.zeros(dim, dtype=torch.float64),
            "second": torch.zeros(dim, dim, dtype=torch.float64),
            "third": torch.zeros(self._pairs.shape[1], dim, dtype=torch.float64),
            "diagonal": torch.zeros((), dtype=torch.float64),
        }

    @classmethod
    def of(cls, features: Tensor, block: int = 2048) -> Self:
        """The sums of features [n, d], read in blocks of rows."""
        moments = cls(features.shape[1])
        for rows in features.split(block):
            moments.update(rows)
        return moments

    def update(self, features: Tensor) -> None:
        """Takes in features [b, d]."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have the shape {tuple(features.shape)}, expected [rows, {self.dim}]")
        x = as_double(features).to(self._sums["first"].device)
        products = x[:, self._pairs[0]] * x[:, self._pairs[1]]
        self.n += len(x)
        self._sums["first"] += x.sum(0)
        self._sums["second"] += x.T @ x
        self._sums["third"] += products.T @ x
        self._sums["diagonal"] += _diagonal(x).sum()

    def merge(self, other: "KernelMoments") -> Self:
        """Adds what another accumulator has seen; returns self."""
        if other.dim != self.dim:
            raise ValueError(f"moments of {other.dim} features cannot be merged into moments of {self.dim}")
        self.n += other.n
        for name, value in other._sums.items():
            self._sums[name] += value
        return self

    def state(self) -> dict[str, Tensor]:
        """The accumulator as tensors, for a file or for another process."""
        return {"n": torch.tensor(self.n), **self._sums}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The accumulator that `state()` described."""
        moments = cls(len(state["first"]))
        moments.n = int(state["n"])
        moments._sums = {name: value.clone() for name, value in state.items() if name != "n"}
        return moments

    def across_processes(self) -> Self:
        """The merged sums of all processes of torch.distributed, the same on each; a copy where there is one."""
        states = [self.state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = _gather_states(self.state())
        merged = type(self)(self.dim)
        for state in states:
            merged.merge(self.from_state(state))
        return merged

    def _mean_products(self, other: "KernelMoments") -> float:
        """Sum of the kernel over all pairs of rows of self and other, the diagonal included."""
        weights = torch.where(self._pairs[0] == self._pairs[1], 1.0, 2.0).double()[:, None]
        a, b, d = self._sums, other._sums, self.dim
        cubic = (weights * a["third"] * b["third"]).sum() / d**3
        square = 3 * (a["second"] * b["second"]).sum() / d**2
        return float(cubic + square + 3 * (a["first"] @ b["first"]) / d + self.n * other.n)

    def distance(self, other: "KernelMoments") -> float:
        """The unbiased squared MMD to another stream; equals `kernel_distance(...).value` of the kept rows."""
        if self.n < 2 or other.n < 2:
            raise ValueError(f"a kernel distance needs at least 2 rows on both sides, got {self.n} and {other.n}")
        xx = (self._mean_products(self) - float(self._sums["diagonal"])) / (self.n * (self.n - 1))
        yy = (other._mean_products(other) - float(other._sums["diagonal"])) / (other.n * (other.n - 1))
        return xx + yy - 2 * self._mean_products(other) / (self.n * other.n)

    def row_means(self, x: Tensor) -> Tensor:
        """Mean kernel of each row of x [b, d] with all rows seen so far -> [b] float64."""
        x = as_double(x).to(self._sums["first"].device)
        weights = torch.where(self._pairs[0] == self._pairs[1], 1.0, 2.0).double()
        products = x[:, self._pairs[0]] * x[:, self._pairs[1]] * weights
        cubic = ((products @ self._sums["third"]) * x).sum(1) / self.dim**3
        square = 3 * ((x @ self._sums["second"]) * x).sum(1) / self.dim**2
        return (cubic + square + 3 * (x @ self._sums["first"]) / self.dim) / self.n + 1


def _diagonal(x: Tensor) -> Tensor:
    """k(x_i, x_i) of every row -> [n] float64."""
    return (as_double(x).square().sum(1) / x.shape[1] + 1) ** 3


def _row_means(x: Tensor, y: Tensor, block: int) -> Tensor:
    """Mean over all rows of y [m, d] of the kernel with each row of x [n, d] -> [n] float64."""
    if x.shape[1] <= _EXPLICIT_DIM:
        moments = KernelMoments.of(y, block)
        return torch.cat([moments.row_means(rows) for rows in x.split(block)])
    means = torch.zeros(len(x), dtype=torch.float64, device="cpu")
    for start in range(0, len(x), block):
        rows = x[start : start + block]
        for columns in y.split(block):
            means[start : start + block] += cubic_kernel(rows, columns).sum(1).cpu()
    return means / len(y)
