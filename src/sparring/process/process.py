"""What a noising process is, and what draws its training times.

Time t is continuous in [0, 1]: 0 is clean, 1 is noise. Times are float tensors of any shape (usually [B]); what comes
back has t's dtype, at least float32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.process.noise import Coupling, Gaussian, Independent, Kernel
from sparring.process.schedulers import Kind


def per_image(value: Tensor, images: Tensor) -> Tensor:
    """`value` [B] as [B, 1, 1, ...] in the dtype of `images` (at least float32), to multiply images with."""
    return value.to(torch.promote_types(images.dtype, torch.float32)).reshape(-1, *[1] * (images.ndim - 1))


class Process(ABC):
    """How images turn into noise, and which time and input its networks get.

    Attributes:
        shift: of the times on a sampler's grid; only a rectified flow has another than 1.
        scales_input: whether networks are shown something else than x_t (`model_input`), as EDM's are.
        kernel: law of the noise.
        coupling: which noise goes to which image in training.
        spacing: of times between which derivatives along the process are taken: that of the levels, if it has levels.
    """

    shift: float = 1.0
    spacing: float = 1e-4
    scales_input: bool = False
    kernel: Kernel = Gaussian()
    coupling: Coupling = Independent()

    def __init__(self, kernel: Kernel | None = None, coupling: Coupling | None = None) -> None:
        self.kernel = kernel or self.kernel
        self.coupling = coupling or self.coupling

    @abstractmethod
    def log_alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(log alpha, log sigma) at t, in float64; -inf if one of them is 0."""

    @abstractmethod
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time with this log-SNR; the nearest end of [0, 1] if there is none."""

    @abstractmethod
    def snap(self, t: Tensor) -> Tensor:
        """The nearest time a network may be trained at."""

    @abstractmethod
    def model_time(self, t: Tensor) -> Tensor:
        """The network's time for t."""

    @abstractmethod
    def t_from_model_time(self, model_time: Tensor) -> Tensor:
        """The inverse of `model_time`; turns a diffusers scheduler's `timesteps` into t."""

    @abstractmethod
    def scheduler(self, name: str, prediction: Kind) -> Any:
        """A configured diffusers scheduler; put it on its grid with `process.set_timesteps`.

        Its `timesteps` are values of `model_time`, and it takes the raw output of the network.

        Raises:
            ValueError: this process has no scheduler of that name, or the scheduler cannot take that prediction.
        """

    @abstractmethod
    def default_times(self) -> "Times":
        """The training times of a method that is given none."""

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the clean image in x_t."""
        return as_time(self.log_alpha_sigma(t)[0].exp(), t)

    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise in x_t."""
        return as_time(self.log_alpha_sigma(t)[1].exp(), t)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2): falls with t; +inf at a clean end, -inf at a pure-noise end."""
        log_alpha, log_sigma = self.log_alpha_sigma(t)
        return as_time(2 * (log_alpha - log_sigma), t)

    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Maps a uniform number in [0, 1) to a time, so that all times a network is trained at are equally likely."""
        return self.snap(u)

    def check_bound(self, setting: str) -> None:
        """Raises ValueError if noise has another law or knows the image, so that no bound of the likelihood is known.

        Args:
            setting: what wants the bound.
        """
        for name, part, plain in (("kernel", self.kernel, Gaussian), ("coupling", self.coupling, Independent)):
            if not isinstance(part, plain):
                raise ValueError(
                    f"`{setting}`: the bound is of Gaussian noise that is independent of the image, which noise of "
                    f"`{name}={type(part).__name__}` is not; leave that out"
                )

    def model_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network is shown instead of x_t [B, ...]: x_t itself, but for EDM."""
        return x_t

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps for images [B, ...] and t [B], in at least float32."""
        return per_image(self.alpha(t), x_0) * x_0 + per_image(self.sigma(t), eps) * eps

    def rate(self, function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        """d function / dt at t, for `alpha`, `sigma`, `model_time`: a central difference in float64 over 2e-4 of t.

        Not a derivative by autograd, which sees the rounding of a time to its level and the kinks of a table.
        """
        low, high = ((wide(t) + side).clamp(0, 1) for side in (-1e-4, 1e-4))
        return as_time((function(high) - function(low)) / (high - low), t)

    def velocity(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """dx_t / dt = alpha' x_0 + sigma' eps along the path of images and noise [B, ...]; of a flow, eps - x_0."""
        return per_image(self.rate(self.alpha, t), x_0) * x_0 + per_image(self.rate(self.sigma, t), eps) * eps

    def posterior(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(x_s | x_t, x_0) for s < t.

        With a = alpha_t / alpha_s and r = SNR_t / SNR_s (which is a^2 sigma_s^2 / sigma_t^2):
        mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s (1 - r) x_0, var = sigma_s^2 (1 - r). Source: Bayes' rule for
        Gaussians; for adjacent VP steps this is DDPM's q(x_{t-1} | x_t, x_0). At s = 0 of a process that is clean
        there, it is x_0 with standard deviation 0.

        Args:
            x_0: clean images [B, ...], or a prediction of them.
            x_t: noisy images [B, ...].
            s: earlier (cleaner) times [B], 0 <= s <= t.
            t: times [B] of x_t, above 0.

        Returns:
            mean [B, ...], and std [B, 1, 1, ...] to multiply noise with; differentiable in x_0 and x_t.

        Raises:
            ValueError: the noise is not Gaussian.
        """
        if not self.kernel.gaussian:
            raise ValueError(f"`kernel={type(self.kernel).__name__}`: steps between levels need Gaussian noise")
        log_alpha_s, log_sigma_s = self.log_alpha_sigma(s)
        log_alpha_t, log_sigma_t = self.log_alpha_sigma(t)
        one_minus_r = -torch.expm1(2 * ((log_alpha_t - log_sigma_t) - (log_alpha_s - log_sigma_s)))
        from_x_t = torch.exp(log_alpha_t - log_alpha_s + 2 * (log_sigma_s - log_sigma_t))
        from_x_0 = log_alpha_s.exp() * one_minus_r
        std = log_sigma_s.exp() * one_minus_r.clamp(min=0).sqrt()
        return per_image(from_x_t, x_t) * x_t + per_image(from_x_0, x_0) * x_0, per_image(std, x_t)


@dataclass
class Drawn:
    """Training times, and how their losses are balanced if some were drawn more often than others.

    Args:
        t: [n] times.
    """

    t: Tensor

    def balanced(self, losses: Tensor, sizes: Tensor | None = None) -> Tensor:
        """[n] losses at these times, whose mean estimates the same objective however the times were drawn.

        Args:
            losses: [n].
            sizes: [n] numbers from 0 on that say how often such times are asked for; the losses when None.
        """
        return losses


class Times(ABC):
    """A distribution of training times."""

    @abstractmethod
    def __call__(self, process: Process, draws: Draws, n: int) -> Tensor:
        """[n] times, all equally important."""

    def draw(self, process: Process, draws: Draws, n: int) -> Drawn:
        """n times with what balances them; for losses that are means over the times."""
        return Drawn(self(process, draws, n))

    def at(self, process: Process, u: Tensor) -> Tensor:
        """The quantile function: the times [n] below which shares u [n] in (0, 1) of all times lie."""
        raise NotImplementedError

    def log_density(self, process: Process, log_snr: Tensor) -> Tensor:
        """log p [n] of log-SNR [n], if its time is drawn by this distribution; levels are taken as continuous.

        Raises:
            ValueError: it is not known for this distribution.
        """
        raise ValueError(f"`times={type(self).__name__}`: its density over log-SNR is not known")


def wide(t: Tensor) -> Tensor:
    """t in float64, or in float32 on a device without it (MPS)."""
    return t.float() if t.device.type == "mps" else t.double()


def as_time(value: Tensor, t: Tensor) -> Tensor:
    """`value` in t's dtype: float64 if t is, float32 otherwise."""
    return value.to(torch.float64 if t.dtype == torch.float64 else torch.float32)


def positive(name: str, value: float) -> float:
    """`value`, which must be above 0."""
    if value <= 0:
        raise ValueError(f"{name}={value} must be above 0")
    return value


def same_noise(one: Process, other: Process) -> bool:
    """Whether images and noise have the same scales at the same times in two processes."""
    times = torch.linspace(0.01, 1, 23, dtype=torch.float64)
    ours, theirs = (torch.stack([process.log_snr(times), process.alpha(times)]) for process in (one, other))
    return torch.allclose(ours, theirs)
