"""The terms of the variational bound of a chain of noise levels (Ho et al. 2020; Nichol and Dhariwal 2021)."""

import math

import torch
from torch import Tensor

from sparring.process.gaussian import VP
from sparring.process.process import per_image, wide


def log_variances(process: VP, t: Tensor) -> tuple[Tensor, Tensor]:
    """(log beta~_t, log beta_t) [B]: variances of x_{t-1} if x_0 is known, and if nothing is known of it (its limits).

    At the first level beta~ is 0, and that of the second stands in its place. Source: improved DDPM (arXiv 2102.09672).
    """
    log_beta = _log_beta(process, wide(t))
    second = wide(t).clamp(min=2 * process.spacing)
    log_sigma_t = process.log_alpha_sigma(second)[1]
    log_sigma_s = process.log_alpha_sigma(second - process.spacing)[1]
    return _log_beta(process, second) + 2 * (log_sigma_s - log_sigma_t), log_beta


def bound_term(
    process: VP, x_0: Tensor, x_t: Tensor, t: Tensor, x_0_pred: Tensor, variance: Tensor, bins: int = 256
) -> Tensor:
    """[B] bits per number of one level: KL(q(x_{t-1} | x_t, x_0) || p), at the first level -log p of the binned x_0.

    p has the posterior's mean at the predicted x_0 and, with f = (variance + 1) / 2, the log-variance
    `f log beta_t + (1 - f) log beta~_t`. The sum over all levels is the variational bound but for the prior's term.
    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), Equations for L_vlb.

    Args:
        process: with levels.
        x_0: clean images [B, ...] in [-1, 1].
        x_t: noisy images [B, ...].
        t: their times [B], on levels.
        x_0_pred: the network's clean image [B, ...].
        variance: what it says of the variance [B, ...], -1 to 1 for the limits; not squashed.
        bins: values that a number of an image may have, evenly from -1 to 1.
    """
    s = (wide(t) - process.spacing).clamp(min=0)
    s = torch.where(s < 0.5 * process.spacing, 0.0, s)
    low, high = (per_image(value, x_0) for value in log_variances(process, t))
    fraction = (variance.to(high) + 1) / 2
    log_p = fraction * high + (1 - fraction) * low
    mean, _ = process.posterior(x_0, x_t, s, wide(t))
    mean_p, _ = process.posterior(x_0_pred, x_t, s, wide(t))
    kl = 0.5 * (log_p - low - 1 + torch.exp(low - log_p) + (mean - mean_p).square() * torch.exp(-log_p))
    first = -log_of_bin(x_0, mean_p, 0.5 * log_p, bins)
    nats = torch.where(per_image(s, x_0) == 0, first, kl)
    return nats.flatten(1).mean(1) / math.log(2)


def log_of_bin(x: Tensor, mean: Tensor, log_std: Tensor, bins: int) -> Tensor:
    """log of the mass that N(mean, std^2) has in the bin of x, the outermost bins without an end."""
    half, scale = 1 / (bins - 1), torch.exp(-log_std)
    above, below = torch.special.ndtr((x + half - mean) * scale), torch.special.ndtr((x - half - mean) * scale)
    mass = torch.where(x < -1 + half, above, torch.where(x > 1 - half, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def prior_term(process: VP, x_0: Tensor) -> Tensor:
    """[B] bits per number of KL(q(x_T | x_0) || N(0, I)), which no training changes."""
    last = torch.ones(len(x_0), device=x_0.device)
    alpha, sigma = per_image(process.alpha(last), x_0), per_image(process.sigma(last), x_0)
    nats = 0.5 * ((alpha * x_0).square() + sigma.square() - 1 - 2 * sigma.log())
    return nats.flatten(1).mean(1) / math.log(2)


def _log_beta(process: VP, t: Tensor) -> Tensor:
    """log (1 - abar_t / abar_{t-1})."""
    log_ratio = 2 * (process.log_alpha_sigma(t)[0] - process.log_alpha_sigma(t - process.spacing)[0])
    return torch.log(-torch.expm1(log_ratio))
