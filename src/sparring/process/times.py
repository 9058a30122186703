"""How training times are drawn. Each is called as `times(process, draws, n)` and returns n times t in [0, 1].

`draws` gives the random numbers: `draws.uniform((n,))` in [0, 1) and `draws.normal((n,))`. The times come back where
the process wants them (`Process.snap`): on the levels of a VP process, away from singular ends of a flow.
"""

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.process.process import Process, Times, positive


class Uniform(Times):
    """Times equally likely in t (for VP: all N levels equally likely, as in DDPM)."""

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return process.time_from_uniform(draws.uniform((n,)))


class LogNormal(Times):
    """ln(sigma / alpha) normal. Source: EDM, mean -1.2 and std 1.2; EDM2 has (-0.8, 1.6) for 64-pixel images.

    Args:
        mean: mean of ln(sigma / alpha).
        std: its standard deviation.
    """

    def __init__(self, *, mean: float = -1.2, std: float = 1.2) -> None:
        self.mean, self.std = mean, positive("std", std)

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return process.snap(process.t_from_log_snr(-2 * (self.mean + self.std * draws.normal((n,)))))


class LogitNormal(Times):
    """t = sigmoid(mean + std n), then shifted: t -> k t / (1 + (k - 1) t). The usual choice for rectified flows.

    Args:
        mean: mean of logit(t).
        std: its standard deviation.
        shift: k above; None takes the process's own (`RectifiedFlow.shift`; 1 for the others).
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0, shift: float | None = None) -> None:
        self.mean, self.std = mean, positive("std", std)
        self.shift = None if shift is None else positive("shift", shift)

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        t = torch.sigmoid(self.mean + self.std * draws.normal((n,)))
        shift = process.shift if self.shift is None else self.shift
        return process.snap(shift * t / (1 + (shift - 1) * t))
