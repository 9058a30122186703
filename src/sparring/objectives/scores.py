"""Losses of a generator by two scores: that of the data (a teacher's) and that of its own images (a fake score's).

Both are given as clean estimates [B, ...] of the generator's noised images, which are as good as scores: by Tweedie's
formula the score is `(alpha x_0 - x_t) / sigma^2`. All means run over rows and numbers.
"""

import torch
from torch import Tensor

from sparring.networks.precision import at_least_float32

SMALLEST = 1e-5  # of the distance by which the losses are divided


def distribution_matching(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """`0.5 mean |x - sg(x - g)|^2` with `g = (fake - real) / mean |x - real|` of each row; its slope is g / (numbers).

    The expected g is the slope of KL(fakes | data) of noised images, up to a positive factor, and 0 where the two
    scores agree. The value says nothing of how far the generator is. Source: DMD2 (arXiv 2405.14867), after DMD.

    Args:
        x: the generator's images [B, ...].
        real: clean estimates of the noised images by the teacher.
        fake: the same by the fake score.
    """
    with torch.no_grad():
        g = (fake - real) / distance(x, real)
    return 0.5 * at_least_float32(x - (x - g).detach()).square().mean()


def score_identity(x: Tensor, real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """`mean (real - fake) ((real - x) - alpha (real - fake)) / sg mean |x - real|`: SiD's loss.

    Gradient passes through both estimates into x. At the optimum of both scores the expected value is `1 - alpha` times
    a squared distance of scores, 0 at alpha 1, whatever the generator is: only its slope says something. For shifted
    Gaussians that slope is the same for every alpha. Source: SiD (arXiv 2404.04057), as the sheet of its code has it;
    a mean over numbers here, a sum there.

    Args:
        x: the generator's images [B, ...].
        real: clean estimates of the noised images by the teacher, with the graph to x.
        fake: the same by the fake score.
        alpha: weight of the squared difference.
    """
    difference = real - fake
    return (difference * ((real - x) - alpha * difference) / distance(x, real)).mean()


@torch.no_grad()
def distance(x: Tensor, real: Tensor) -> Tensor:
    """[B, 1, ...] mean distance of each row, at least 1e-5, without a graph."""
    return (x - real).abs().flatten(1).mean(1).clamp(min=SMALLEST).view(-1, *[1] * (x.ndim - 1))
