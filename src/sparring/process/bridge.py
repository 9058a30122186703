"""The Brownian bridge between two images: what lies between the ends of a Schroedinger bridge."""

from torch import Tensor

from sparring.process.process import per_image


def bridge(x_0: Tensor, x_1: Tensor, t: Tensor, eps: Tensor, variance: float) -> Tensor:
    """`(1 - t) x_0 + t x_1 + sqrt(variance t (1 - t)) eps` for ends [B, ...], noise eps [B, ...] and t [B] in [0, 1].

    Source: the reference process of ASBM (arXiv 2405.14449), a Brownian motion of this variance at time 1.
    """
    own = per_image(t, x_0)
    return (1 - own) * x_0 + own * x_1 + (variance * own * (1 - own)).sqrt() * eps


def bridge_posterior(x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Mean [B, ...] and standard deviation [B, 1, ...] of x_s given x_0 and x_t, 0 <= s <= t, t above 0.

    Mean `(1 - s / t) x_0 + (s / t) x_t`, variance `variance s (t - s) / t`; at s = 0 it is x_0. Source: ASBM.
    """
    share = per_image(s / t, x_t)
    return (1 - share) * x_0 + share * x_t, per_image((variance * s * (t - s) / t).clamp(min=0).sqrt(), x_t)
