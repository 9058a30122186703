"""Mean and covariance of a stream of features: one pass, constant memory, and sums of several processes."""

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor


def as_double(x: Tensor) -> Tensor:
    """`x` in float64, on the same device if that device knows float64 (Apple's does not), else on the CPU."""
    return x.detach().cpu().double() if x.device.type == "mps" else x.detach().double()


class Accumulator(ABC):
    """Sums over rows of features [n, dim]: they take in batches, merge, and travel as tensors."""

    dim: int
    n: int

    @abstractmethod
    def __init__(self, dim: int) -> None: ...

    @classmethod
    def of(cls, features: Tensor, block: int = 1024) -> Self:
        """The sums over features [n, d], read in blocks of rows."""
        sums = cls(features.shape[1])
        for rows in features.split(block):
            sums.update(rows)
        return sums

    @abstractmethod
    def update(self, features: Tensor) -> None:
        """Takes in features [b, dim]."""

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """Adds what another accumulator has seen; returns self."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The accumulator as tensors, for a file or for another process."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The accumulator that `state()` described."""

    def across_processes(self) -> Self:
        """The merged sums of all processes of torch.distributed, the same on each; a copy if there is one."""
        several = dist.is_available() and dist.is_initialized()
        merged = type(self)(self.dim)
        for state in _gather_states(self.state()) if several else [self.state()]:
            merged.merge(self.from_state(state))
        return merged

    def _check(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have the shape {tuple(features.shape)}, expected [rows, {self.dim}]")

    def _check_merge(self, other: Self) -> None:
        if other.dim != self.dim:
            raise ValueError(f"sums over {other.dim} features cannot be merged into sums over {self.dim}")


class Moments(Accumulator):
    """Count, mean and covariance of rows that arrive in batches, in float64.

    The memory is that of one [d, d] matrix, whatever the number of rows. Two accumulators merge into the one that would
    have seen both streams (Chan, Golub and LeVeque 1983), so that each process can hold its own.

    Args:
        dim: Number of features d.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor) -> None:
        self._check(features)
        if len(features) == 0:
            return
        x = as_double(features)
        mean = x.mean(0)
        centred = x - mean
        self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        self._check_merge(other)
        if other.n:
            self._add(other.n, other.mean, other._scatter)
        return self

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        mean, scatter = mean.to(self.mean.device), scatter.to(self.mean.device)
        total = self.n + n
        shift = mean - self.mean
        self._scatter += scatter + torch.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance [d, d] in float64 (divides by n - 1)."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.n}")
        return self._scatter / (self.n - 1)

    def state(self) -> dict[str, Tensor]:
        return {"n": torch.tensor(self.n), "mean": self.mean, "scatter": self._scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        moments = cls(len(state["mean"]))
        moments.n, moments.mean, moments._scatter = int(state["n"]), state["mean"], state["scatter"].clone()
        return moments


def _gather_states(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Every process's state, in the order of the ranks."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    states: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    for name, value in state.items():
        local = value.to(device).contiguous()
        parts = [torch.empty_like(local) for _ in states]
        dist.all_gather(parts, local)
        for gathered, part in zip(states, parts, strict=True):
            gathered[name] = part.cpu()
    return states
