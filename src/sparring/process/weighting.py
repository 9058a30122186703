"""Loss weights over the noise level. Each maps log-SNR [B] to the weight [B] on |x_0 - x_0_pred|^2.

Weights are always stated for the x_0 loss, whatever the network predicts; multiply by `Denoiser.x0_slope(t)**2` to get
the weight on the network's own output. With SNR = alpha^2 / sigma^2: |eps - eps_pred|^2 = SNR |x_0 - x_0_pred|^2, and
for VP |v - v_pred|^2 = (SNR + 1) |x_0 - x_0_pred|^2.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparring.process.process import positive


class Weighting(ABC):
    """A loss weight as a function of log-SNR."""

    @abstractmethod
    def __call__(self, log_snr: Tensor) -> Tensor:
        """[B] weights of the squared x_0 error at log-SNR [B]."""


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
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = positive("gamma", gamma)

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


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
