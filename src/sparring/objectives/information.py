"""Lower bounds of the mutual information of x and c, from a network's values T on pairs that belong together or not."""

import math

import torch
from torch import Tensor

from sparring.networks.precision import at_least_float32


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """`mean T(x, c) - log mean exp T(x, c')`, in nats: the tighter bound; its gradient on a batch is biased.

    Source: Belghazi et al. 2018, "MINE: Mutual Information Neural Estimation" (arXiv 1801.04062). Equality holds for
    `T = log p(x, c) / p(x) p(c)` up to a constant. Estimates beyond about the logarithm of n cannot be trusted.

    Args:
        joint: T of n pairs that belong together, any shape.
        marginal: T of pairs that are independent.
    """
    marginal = at_least_float32(marginal).flatten()
    return at_least_float32(joint).mean() - (marginal.logsumexp(0) - math.log(len(marginal)))


def f_divergence(joint: Tensor, marginal: Tensor) -> Tensor:
    """`mean T(x, c) - mean exp(T(x, c') - 1)`, in nats: a mean over rows, so that its gradient is unbiased.

    Source: as `donsker_varadhan`, the form of the f-divergence; equality for `T = 1 + log p(x, c) / p(x) p(c)`.
    """
    return at_least_float32(joint).mean() - (at_least_float32(marginal) - 1).exp().mean()


def limited(gradient: Tensor, other: Tensor) -> Tensor:
    """A gradient [B, ...] whose norm in each row is at most that of another one: `min(|g|, |o|) g / |g|`."""
    own, most = (x.flatten(1).norm(dim=1) for x in (gradient, other))
    factor = torch.where(own > most, most / own.clamp_min(1e-30), 1.0)
    return gradient * factor.view(-1, *[1] * (gradient.ndim - 1))
