"""Mean and covariance of a stream of features: one pass, constant memory, and sums of several processes."""

from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor


def as_double(x: Tensor) -> Tensor:
    """`x` in float64, on the same device where that device knows float64 (Apple's does not), else on the CPU."""
    return x.detach().cpu().double() if x.device.type == "mps" else x.detach().double()


class Moments:
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

    @classmethod
    def of(cls, features: Tensor, block: int = 8192) -> Self:
        """The moments of features [n, d], read in blocks of rows."""
        moments = cls(features.shape[1])
        for rows in features.split(block):
            moments.update(rows)
        return moments

    def update(self, features: Tensor) -> None:
        """Takes in features [b, d]."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have the shape {tuple(features.shape)}, expected [rows, {self.dim}]")
        if len(features) == 0:
            return
        x = as_double(features)
        mean = x.mean(0)
        centred = x - mean
        self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> Self:
        """Adds what another accumulator has seen; returns self."""
        if other.dim != self.dim:
            raise ValueError(f"moments of {other.dim} features cannot be merged into moments of {self.dim}")
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
        """The accumulator as tensors, for a file or for another process."""
        return {"n": torch.tensor(self.n), "mean": self.mean, "scatter": self._scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The accumulator that `state()` described."""
        moments = cls(len(state["mean"]))
        moments.n, moments.mean, moments._scatter = int(state["n"]), state["mean"], state["scatter"]
        return moments

    def across_processes(self) -> Self:
        """The merged moments of all processes of torch.distributed, the same on each; a copy where there is one."""
        states = [self.state()]
        if dist.is_available() and dist.is_initialized():
            states = _gather_states(self.state())
        merged = type(self)(self.dim)
        for state in states:
            merged.merge(self.from_state(state))
        return merged


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
