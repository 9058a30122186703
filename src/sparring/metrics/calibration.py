"""Whether a discriminator is as often right as it is sure."""

import torch
from torch import Tensor

from sparring.metrics.moments import as_double


def calibration_error(real: Tensor, fake: Tensor, *, bins: int = 10) -> float:
    """Expected calibration error of logits of real images [n] and as many fakes [n].

    With p = sigmoid(logit) in equal bins of [0, 1] it is `sum_b n_b / n |mean p - share of reals|`: 0 if of all images
    to which it gives the probability p a share of p is real. Source: Guo et al. 2017, "On Calibration of Modern Neural
    Networks" (arXiv 1706.04599), Eq. (3), for two classes.

    Raises:
        ValueError: not as many fakes as reals, or none.
    """
    if real.shape != fake.shape or real.ndim != 1 or not len(real):
        raise ValueError(f"logits have the shapes {tuple(real.shape)} and {tuple(fake.shape)}, expected [n] twice")
    p = torch.cat([as_double(real), as_double(fake)]).sigmoid()
    is_real = torch.cat([torch.ones_like(real), torch.zeros_like(fake)]).double()
    place = (p * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=p.device).index_add_(0, place, p - is_real)
    return float(gap.abs().sum() / len(p))
