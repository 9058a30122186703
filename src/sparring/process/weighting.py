"""Loss weights over the noise level. Each maps log-SNR [B] to the weight [B] on |x_0 - x_0_pred|^2.

Weights are always stated for the x_0 loss, whatever the network predicts; multiply by `Denoiser.x0_slope(t)**2` to get
the weight on the network's own output. With SNR = alpha^2 / sigma^2: |eps - eps_pred|^2 = SNR |x_0 - x_0_pred|^2, and
for VP |v - v_pred|^2 = (SNR + 1) |x_0 - x_0_pred|^2.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.process.process import Process, Times, positive

NOTHING_LEFT = 1e-7  # SNR; VP's stand-in for zero terminal SNR is 2^-24


class Weighting(ABC):
    """A loss weight as a function of log-SNR."""

    @abstractmethod
    def __call__(self, log_snr: Tensor) -> Tensor:
        """[B] weights of the squared x_0 error at log-SNR [B]."""

    def combine(self, error: Tensor, log_snr: Tensor, of_x_0: Tensor | float = 1.0) -> Tensor:
        """[B] losses of squared errors [B]: weight times error, if the weighting is not learned.

        Args:
            error: of the network's output.
            log_snr: [B] where it was made.
            of_x_0: [B] squared errors of x_0 per squared error of the output.
        """
        return error * self(log_snr) * of_x_0


class Constant(Weighting):
    """1: the plain loss on x_0."""

    def __call__(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


class SNR(Weighting):
    """SNR: the plain loss on eps (DDPM's L_simple)."""

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


class SNRPlusOne(Weighting):
    """SNR + 1: for VP, the plain loss on v."""

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + 1


class TruncatedSNR(Weighting):
    """max(SNR, 1): the larger of the plain losses on eps and on x_0. Source: Salimans and Ho (arXiv 2202.00512)."""

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


class MinSNR(Weighting):
    """min(SNR, gamma). Source: Hang et al. 2023 (arXiv 2303.09556).

    Args:
        gamma: cap of the weight.
        at_zero: weight where nothing is left of the image (SNR below 1e-7, as at the last level of a schedule with zero
            terminal SNR): "formula" gives about 0, which leaves that level untrained; "one" trains it, as the official
            code does.
    """

    def __init__(self, *, gamma: float = 5.0, at_zero: Literal["formula", "one"] = "formula") -> None:
        if at_zero not in ("formula", "one"):
            raise ValueError(f"`at_zero={at_zero}` must be formula or one")
        self.gamma, self.at_zero = positive("gamma", gamma), at_zero

    def __call__(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        weight = snr.clamp(max=self.gamma)
        return weight if self.at_zero == "formula" else torch.where(snr < NOTHING_LEFT, 1.0, weight)


class SoftMinSNR(Weighting):
    """SNR gamma / (SNR + gamma), a smooth MinSNR.

    Args:
        gamma: the weight's limit at high SNR.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = positive("gamma", gamma)

    def __call__(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr * (self.gamma / (snr + self.gamma))


class Debiased(Weighting):
    """sqrt(SNR), i.e. 1 / sqrt(SNR) on the eps loss; above the limit SNR / sqrt(limit).

    Source: Yu et al. 2023 (arXiv 2310.08442); the limit is the community code's.

    Args:
        limit: SNR is held here inside the square root.
    """

    def __init__(self, *, limit: float = 1000.0) -> None:
        self.limit = positive("limit", limit)

    def __call__(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr.sqrt() * (snr / self.limit).clamp(min=1).sqrt()


class P2(Weighting):
    """SNR / (k + SNR)^gamma, i.e. 1 / (k + SNR)^gamma on the eps loss.

    Args:
        k: keeps the weight finite at SNR 0.
        gamma: how far low noise is played down; 0 is the plain eps loss.
    """

    def __init__(self, *, k: float = 1.0, gamma: float = 1.0) -> None:
        self.k, self.gamma = positive("k", k), gamma

    def __call__(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr * (self.k + snr) ** -self.gamma


class EDMWeighting(Weighting):
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 with sigma^2 = 1 / SNR, i.e. SNR + 1 / sigma_data^2.

    1 / c_out^2, so that an "edm" output is trained with weight 1 at all levels. Source: Karras et al. 2022 (EDM).

    Args:
        sigma_data: standard deviation of the data; the process's own for an EDM process.
    """

    def __init__(self, *, sigma_data: float = 0.5) -> None:
        self.sigma_data = positive("sigma_data", sigma_data)

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


class Sigmoid(Weighting):
    """exp(bias) sigmoid(log_snr - bias), i.e. sigmoid(bias - log_snr) on the eps loss; SoftMinSNR has bias ln(gamma).

    Args:
        bias: log-SNR above which the eps loss is played down (-1 is a default (ours)).
    """

    def __init__(self, *, bias: float = -1.0) -> None:
        self.bias = bias

    def __call__(self, log_snr: Tensor) -> Tensor:
        return math.exp(self.bias) * torch.sigmoid(log_snr - self.bias)


class EDMMonotone(Weighting):
    """The weight over log-SNR that EDM has by its levels and weighting, held at its peak: EDM as an ELBO.

    EDM integrates the eps error over log-SNR lam with W ~ N(lam; -2 mean, (2 std)^2) (exp(-lam) + sigma_data^2),
    which rises up to a peak. Here W is 1 at the peak and left of it ("EDM-monotonic"). It takes the place of both, so
    `times` is `UniformLogSNR`, or `AdaptiveTimes` with that as `base`. Source: Kingma and Gao 2023 (arXiv 2303.00848).

    Args:
        sigma_data: standard deviation of the data.
        mean: mean of EDM's ln(sigma / alpha).
        std: its standard deviation.
    """

    def __init__(self, *, sigma_data: float = 0.5, mean: float = -1.2, std: float = 1.2) -> None:
        self.sigma_data = positive("sigma_data", sigma_data)
        self.mean, self.std = mean, positive("std", std)
        grid = torch.linspace(-40, 40, 80001, dtype=torch.float64)
        log_elbo = self._log_elbo(grid)
        self.peak, self.log_peak = float(grid[log_elbo.argmax()]), float(log_elbo.max())

    def __call__(self, log_snr: Tensor) -> Tensor:
        return torch.exp(self._log_elbo(log_snr.clamp(min=self.peak)) - self.log_peak + log_snr)

    def _log_elbo(self, log_snr: Tensor) -> Tensor:
        """log W of EDM, but for a constant."""
        log_p = -0.5 * ((log_snr + 2 * self.mean) / (2 * self.std)).square()
        return log_p + torch.log(torch.exp(-log_snr) + self.sigma_data**2)


class Uncertainty(nn.Module, Weighting):
    """w exp(-u) error + u with a learned u(log-SNR): each level has about the same say, however hard it is.

    At its best exp(u) is the mean of `w error` at a level, and the loss there 1 + u. u is a linear function of Fourier
    features of ln(sigma) / 4, 0 at the start; it is trained with the generator and dropped afterwards. Source: EDM2
    (Karras et al. 2024, arXiv 2312.02696).

    Args:
        weighting: w; EDM's when None.
        width: Fourier features.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, *, weighting: Weighting | None = None, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width={width}` must be at least 1")
        self.weighting = weighting or EDMWeighting()
        random = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width, generator=random))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width, generator=random))
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def __call__(self, log_snr: Tensor) -> Tensor:
        """The weights w exp(-u) as they are now."""
        return self.weighting(log_snr) * torch.exp(-self.uncertainty(log_snr))

    def combine(self, error: Tensor, log_snr: Tensor, of_x_0: Tensor | float = 1.0) -> Tensor:
        return super().combine(error, log_snr, of_x_0) + self.uncertainty(log_snr)

    def uncertainty(self, log_snr: Tensor) -> Tensor:
        """u [B]."""
        with torch.autocast(log_snr.device.type, enabled=False):
            x = (-log_snr / 8).to(self.frequencies)[:, None]
            return self.linear((x * self.frequencies + self.phases).cos() * math.sqrt(2)).squeeze(1).to(log_snr)


def elbo_weight(process: Process, times: Times, weight: Tensor, log_snr: Tensor) -> Tensor:
    """W(lam) = weight(lam) exp(-lam) p(lam) [n]: the weight of an integral of the eps error over log-SNR.

    `E [weight |x_0 - x_0_pred|^2]` over the times is `int W |eps - eps_pred|^2 d lam`. If W does not rise with lam, it
    is, up to constants, the negative ELBO of data with Gaussian noise, averaged over its strength. Source: Kingma and
    Gao 2023 (arXiv 2303.00848); in this form derived.

    Args:
        process: the noising process.
        times: distribution of the noise level.
        weight: [n] weights of the squared x_0 error.
        log_snr: [n] at which they are taken.
    """
    return weight * torch.exp(times.log_density(process, log_snr) - log_snr)


def is_monotone(elbo: Tensor) -> bool:
    """Whether W [n], over rising log-SNR, nowhere rises by more than 1 % of itself and 1e-4 of its mean from a point on
    (a schedule of levels is not smooth; default (ours))."""
    lowest = elbo.cummin(0).values
    return bool((elbo <= 1.01 * lowest + 1e-4 * elbo.mean()).all())
