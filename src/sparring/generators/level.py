"""Where a sampler stands: one noise level, common to all rows, in the coordinates of the process."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators.condition import Condition
from sparring.generators.prediction import Prediction
from sparring.process import Process, scheduler_input
from sparring.process.process import wide


class Level:
    """One noise level: x_t = alpha x_0 + sigma eps.

    Schedulers keep their state in coordinates of their own: Euler's and Heun's for VP in x_t / alpha, all others in x_t
    itself. What changes a sampler (guidance, edits of the state) sees x_t only.

    Args:
        process: the noising process.
        model_time: the network's time, of shape [], such as one of a scheduler's `timesteps`.
        scheduler: the diffusers scheduler that stands there; None: none does.
        call: number of the network call, from 0.
        calls: network calls of the whole walk.

    Attributes:
        after: the level of the next call, with which no scheduler stands; None: this is the last.
        draws: random numbers of what predicts here, for the rows of the walk.
        z: [B, latent_dim] latents of this call, for a network that is conditioned on them; rows that are asked twice,
            one after the other, have the same.
    """

    def __init__(self, process: Process, model_time: Tensor, scheduler: Any = None, call: int = 0, calls: int = 1):
        self.process = process
        self.model_time = model_time
        self.scheduler = scheduler
        self.call = call
        self.calls = calls
        self.after: Level | None = None
        self.draws: Draws | None = None
        self.z: Tensor | None = None

    @classmethod
    def at(cls, process: Process, t: Tensor) -> "Level":
        """The level of a time of the process, of shape []."""
        return cls(process, process.model_time(wide(t)))

    @cached_property
    def t(self) -> Tensor:
        """Time of the process, of shape [], float64."""
        return self.process.t_from_model_time(wide(self.model_time))

    @cached_property
    def alpha(self) -> Tensor:
        """Scale of the clean image, of shape []."""
        return self.process.alpha(self.t)

    @cached_property
    def sigma(self) -> Tensor:
        """Scale of the noise, of shape []."""
        return self.process.sigma(self.t)

    @cached_property
    def noise_to_signal(self) -> float:
        """sigma / alpha: EDM's noise level, in which levels of different processes can be compared."""
        return float(self.sigma / self.alpha)

    @cached_property
    def length(self) -> Tensor:
        """How far the step from here goes, of shape []: to the time of the next call, or to 0."""
        return self.t if self.after is None else self.t - self.after.t

    def times(self, n: int) -> Tensor:
        """[n] times of the process."""
        return self.t.expand(n)

    def x_t(self, state: Tensor) -> Tensor:
        """The noisy images of a scheduler's state."""
        if self.scheduler is None or self.process.scales_input:
            return state
        return scheduler_input(self.scheduler, state, self.model_time)

    def state(self, x_t: Tensor) -> Tensor:
        """The inverse of `x_t`."""
        return x_t / self.x_t(torch.ones((), dtype=x_t.dtype, device=x_t.device))

    def network_input(self, x_t: Tensor) -> Tensor:
        """What the network is shown of the noisy images."""
        if not self.process.scales_input:
            return x_t
        if self.scheduler is not None:
            return scheduler_input(self.scheduler, x_t, self.model_time)
        return self.process.model_input(x_t, self.times(len(x_t)))


Predictor = Callable[[Tensor, Level, Condition], Prediction]
"""Noisy images [B, C, H, W], where they stand, and what they are conditioned on. Rows never see each other."""
