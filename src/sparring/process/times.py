"""How training times are drawn. Each is called as `times(process, draws, n)` and returns n times t in [0, 1].

`draws` gives the random numbers: `draws.uniform((n,))` in [0, 1) and `draws.normal((n,))`. The times come back where
the process wants them (`Process.snap`): on the levels of a VP process, away from singular ends of a flow.

`AdaptiveTimes` and `LossAware` draw some times more often than others and weigh their losses so that the objective
stays what it is with their `base`; only the variance of its gradient changes.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.process.noise import HALF_STEP
from sparring.process.process import Drawn, Process, Times, positive, wide

ROUNDING = 1e-6  # of log-SNR


class Uniform(Times):
    """Times equally likely in t (for VP: all N levels equally likely, as in DDPM).

    Args:
        low: from this share of the way from clean to noise on.
        high: up to this one.

    Raises:
        ValueError: not 0 <= low < high <= 1.
    """

    def __init__(self, *, low: float = 0.0, high: float = 1.0) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f"`low={low}`, `high={high}`: times lie between them, so 0 <= low < high <= 1")
        self.low, self.high = low, high

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return self.at(process, draws.uniform((n,)))

    def at(self, process: Process, u: Tensor) -> Tensor:
        return process.time_from_uniform(self.low + (self.high - self.low) * u)

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        t = process.t_from_log_snr(wide(log_snr))
        middle = t - process.spacing / 2  # of the step that a level stands for
        inside = (middle > self.low) & (middle < self.high)
        return torch.where(inside, -_speed(process, t).log() - math.log(self.high - self.low), -math.inf)


class UniformLogSNR(Times):
    """log-SNR equally likely from `low` to `high`, as far as the process has it: the times of weights W(log-SNR).

    Args:
        low: smallest log-SNR; -12 is ours.
        high: largest log-SNR; 12 is ours.
    """

    def __init__(self, *, low: float = -12.0, high: float = 12.0) -> None:
        if not low < high:
            raise ValueError(f"`low={low}` must be below `high={high}`")
        self.low, self.high = low, high

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return self.at(process, draws.uniform((n,)))

    def at(self, process: Process, u: Tensor) -> Tensor:
        low, high = self.ends(process)
        return process.snap(process.t_from_log_snr(high - u * (high - low)))

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        low, high = self.ends(process)
        inside = (wide(log_snr) >= low - ROUNDING) & (wide(log_snr) <= high + ROUNDING)
        return torch.where(inside, -math.log(high - low), -math.inf).to(wide(log_snr))

    def ends(self, process: Process) -> tuple[float, float]:
        """Smallest and largest log-SNR at the times of a process.

        Raises:
            ValueError: they are none of those of the settings.
        """
        noisy, clean = process.log_snr(process.snap(torch.tensor([1.0, 0.0], dtype=torch.float64))).tolist()
        low, high = max(self.low, noisy), min(self.high, clean)
        if not low < high:
            raise ValueError(
                f"`low={self.low}`, `high={self.high}`: {type(process).__name__} has log-SNR {noisy:.1f} to {clean:.1f}"
            )
        return low, high


class LogNormal(Times):
    """ln(sigma / alpha) normal. Source: EDM, mean -1.2 and std 1.2; EDM2 has (-0.8, 1.6) for 64-pixel images.

    Args:
        mean: mean of ln(sigma / alpha).
        std: its standard deviation.
    """

    def __init__(self, *, mean: float = -1.2, std: float = 1.2) -> None:
        self.mean, self.std = mean, positive("std", std)

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return self._of_normal(process, draws.normal((n,)))

    def at(self, process: Process, u: Tensor) -> Tensor:
        return self._of_normal(process, torch.special.ndtri(u))

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        z = (wide(log_snr) + 2 * self.mean) / (2 * self.std)
        return _log_normal(z) - math.log(2 * self.std)

    def _of_normal(self, process: Process, z: Tensor) -> Tensor:
        return process.snap(process.t_from_log_snr(-2 * (self.mean + self.std * z)))


class LogitNormal(Times):
    """logit(t) = logit_mean + logit_std n, then shifted: t -> k t / (1 + (k - 1) t). The usual choice for flows.

    Args:
        logit_mean: mean of logit(t).
        logit_std: its standard deviation. Not called as those of `LogNormal`, which are of another scale.
        shift: k above; None takes the process's own (`RectifiedFlow.shift`; 1 for the others).
    """

    def __init__(self, *, logit_mean: float = 0.0, logit_std: float = 1.0, shift: float | None = None) -> None:
        self.logit_mean, self.logit_std = logit_mean, positive("logit_std", logit_std)
        self.shift = None if shift is None else positive("shift", shift)

    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        return self._of_normal(process, draws.normal((n,)))

    def at(self, process: Process, u: Tensor) -> Tensor:
        return self._of_normal(process, torch.special.ndtri(u))

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        t = process.t_from_log_snr(wide(log_snr))
        logit = torch.logit(t) - math.log(self._shift(process))  # the shift by k adds ln k to logit(t)
        log_p = (
            _log_normal((logit - self.logit_mean) / self.logit_std) - math.log(self.logit_std) - torch.log(t * (1 - t))
        )
        return log_p - _speed(process, t).log()

    def _of_normal(self, process: Process, z: Tensor) -> Tensor:
        t = torch.sigmoid(self.logit_mean + self.logit_std * z)
        shift = self._shift(process)
        return process.snap(shift * t / (1 + (shift - 1) * t))

    def _shift(self, process: Process) -> float:
        return process.shift if self.shift is None else self.shift


@dataclass
class Binned(Drawn):
    """Times of a `LearnedTimes`: their bins [n], and the rows of the global batch that they are for."""

    bins: Tensor
    rows: Tensor
    step: int
    importance: Tensor
    times: "LearnedTimes"

    def balanced(self, losses: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The losses times base over adapted probability; the sizes are noted for the next step."""
        self.times.note(self, (losses if sizes is None else sizes).detach())
        return self.importance.to(losses) * losses


class LearnedTimes(nn.Module, Times):
    """Times of another distribution, some of its bins more often than others, as the losses of earlier steps say.

    The base is cut into bins of equal probability. A bin is drawn with probability p, a time within it as the base has
    it, and the loss is multiplied by 1 / (bins p): an unbiased estimate, for every process, of the objective that the
    base has. The losses are noted for all processes and micro-batches, in the order of the rows, after a step that was
    taken.

    Args:
        base: the distribution that says what the objective is; Uniform when None.
        bins: number of bins.
        floor: share of the draws that follows the base, in (0, 1].

    Attributes:
        gather: joins the rows of all processes; the trainer sets it.
    """

    def __init__(self, base: Times | None, bins: int, floor: float) -> None:
        super().__init__()
        if bins < 2 or not 0 < floor <= 1:
            raise ValueError(f"`bins={bins}` must be 2 or more, and `floor={floor}` in (0, 1]")
        self.base = base or Uniform()
        if type(self.base).at is Times.at:
            raise ValueError(
                f"`base={type(self.base).__name__}` cannot be cut into bins: Uniform, UniformLogSNR, LogNormal and "
                "LogitNormal can"
            )
        self.num_bins, self.floor = bins, floor
        self.gather: Callable[[Tensor], Tensor] = _same
        self.pending: list[Tensor] = []
        self.step = -1

    @abstractmethod
    def strength(self) -> Tensor | None:
        """[bins] how strongly each bin is asked for, not normalised; None: too little is known yet."""

    @abstractmethod
    def learn(self, bins: Tensor, losses: Tensor) -> None:
        """Takes in the losses [n] of times of `bins` [n]: those of one step, in the order of the rows."""

    def probabilities(self) -> Tensor:
        """[bins] with which each bin is drawn, float64 if the device has it."""
        equal = torch.full((self.num_bins,), 1 / self.num_bins)
        strength = self.strength()
        if strength is None:
            return wide(equal)
        asked = wide(strength)
        return (1 - self.floor) * asked / asked.sum() + self.floor * wide(equal).to(asked)

    def __call__(self, *args: object) -> Tensor:
        raise ValueError(
            f"`times={type(self).__name__}`: this method does not balance the times that are drawn more often; take "
            f"{type(self.base).__name__}, or a method whose loss is the denoising error (diffusion, sadm, adt)"
        )

    def draw(self, process: Process, draws: Draws, n: int) -> Drawn:
        which, within = draws.uniform((n,)), draws.uniform((n,))
        p = self.probabilities().to(which.device)
        bins = torch.searchsorted(p.cumsum(0), wide(which) * p.sum()).clamp(max=self.num_bins - 1)
        u = (bins + wide(within) + HALF_STEP) / self.num_bins
        rows = torch.arange(draws.first, draws.first + n, device=which.device)
        t = self.base.at(process, u).to(which.dtype)
        return Binned(t, bins, rows, draws.step, 1 / (self.num_bins * p[bins]), self)

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        """That of the base, since losses are balanced."""
        return self.base.log_density(process, log_snr)

    def note(self, drawn: Binned, losses: Tensor) -> None:
        """Keeps losses [n] until the step is taken; those of a step that was not taken are forgotten."""
        if drawn.step != self.step:
            self.pending, self.step = [], drawn.step
        self.pending.append(torch.stack([drawn.rows, drawn.bins, wide(losses)], dim=1))

    @torch.no_grad()
    def after_step(self) -> None:
        """Called by the trainer after a step that was taken."""
        if not self.pending:
            return
        noted = self.gather(torch.cat(self.pending))
        self.pending = []
        noted = noted[noted[:, 0].argsort(stable=True)]
        self.learn(noted[:, 1].long(), noted[:, 2])


class AdaptiveTimes(LearnedTimes):
    """Each bin as often as its mean weighted loss says: p ~ E[w error], which lowers the variance of the gradient.

    Source: Kingma and Gao 2023 (arXiv 2303.00848), with bins of equal probability of the base in the place of bins of
    equal log-SNR (ours), so that discrete levels stay exact; bins, decay and floor are ours.

    Args:
        base: the distribution that says what the objective is; Uniform when None.
        bins: number of bins.
        decay: of a bin's moving mean, per loss.
        floor: share of the draws that follows the base.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, *, base: Times | None = None, bins: int = 64, decay: float = 0.99, floor: float = 0.1) -> None:
        super().__init__(base, bins, floor)
        if not 0 <= decay < 1:
            raise ValueError(f"`decay={decay}` must lie in [0, 1)")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("seen", torch.zeros(bins, dtype=torch.long))

    def strength(self) -> Tensor | None:
        return self.mean if bool((self.seen > 0).all()) and bool(self.mean.sum() > 0) else None

    def learn(self, bins: Tensor, losses: Tensor) -> None:
        count = torch.bincount(bins, minlength=self.num_bins)
        average = losses.new_zeros(self.num_bins).index_add_(0, bins, losses) / count.clamp(min=1)
        keep = torch.where(self.seen > 0, self.decay**count, (count == 0).to(losses))
        self.mean.copy_(keep * self.mean + (1 - keep) * average)
        self.seen += count


class LossAware(LearnedTimes):
    """Each bin by the root mean square of its last losses, p ~ sqrt(E[L^2]), for losses that differ widely over time.

    With as many bins as VP has levels, the sampler of improved DDPM (Nichol and Dhariwal 2021, arXiv 2102.09672), which
    is meant for its variational bound; other processes and numbers of bins are ours. All bins are equally likely until
    each has its history.

    Args:
        base: the distribution that says what the objective is; Uniform when None.
        bins: number of bins; 100 is ours.
        history: last losses that are kept of a bin.
        floor: share of the draws that follows the base.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, *, base: Times | None = None, bins: int = 100, history: int = 10, floor: float = 0.001) -> None:
        super().__init__(base, bins, floor)
        if history < 1:
            raise ValueError(f"`history={history}` must be at least 1")
        self.history = history
        self.register_buffer("losses", torch.zeros(bins, history))
        self.register_buffer("count", torch.zeros(bins, dtype=torch.long))

    def strength(self) -> Tensor | None:
        full = bool((self.count >= self.history).all())
        strength = self.losses.square().mean(1).sqrt()
        return strength if full and bool(strength.sum() > 0) else None

    def learn(self, bins: Tensor, losses: Tensor) -> None:
        order = bins.argsort(stable=True)
        sorted_bins, number = bins[order], torch.bincount(bins, minlength=self.num_bins)
        rank = torch.arange(len(bins), device=bins.device) - (number.cumsum(0) - number)[sorted_bins]
        last = rank >= number[sorted_bins] - self.history
        place = (self.count[sorted_bins] + rank) % self.history
        self.losses[sorted_bins[last], place[last]] = losses[order][last].to(self.losses)
        self.count += number


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi))


def _speed(process: Process, t: Tensor) -> Tensor:
    """|d log-SNR / dt|; of a process with levels, between the neighbours of t."""
    low, high = ((t + side).clamp(0, 1) for side in (-process.spacing, process.spacing))
    return ((process.log_snr(high) - process.log_snr(low)) / (high - low)).abs()


def _same(rows: Tensor) -> Tensor:
    return rows
