"""APG: eliminating oversaturation and artifacts of high guidance scales (Sadat et al., arXiv 2410.02416).

Status: no gain; less harm than plain guidance on digits, where no guidance is best (docs/results/sampling.md).

Adaptive projected guidance. Of the difference between the clean estimates with and without the condition, the part
along the estimate itself makes images saturate, the part across it makes them better:

    d   = (told - none) + beta d_before                     momentum, beta < 0 pushes away from past directions
    d   = d min(1, r / |d|)                                  bounded length
    d   = across + eta along,    along = <d, told> told / |told|^2
    x_0 = told + (w - 1) d                                   all of it on clean estimates x_0, for each image by itself

With eta 1, beta 0 and no bound it is classifier-free guidance. Lengths are of a whole image, so the bound r depends on
the size and the range of the images; the paper gives numbers for its models (2.5 to 15), and ours is none.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.generators import Prediction
from sparring.generators.predictor import ClassifierFree


class AdaptiveProjectedGuidance(ClassifierFree):
    """Classifier-free guidance across the estimate.

    Args:
        weight: scale of the guidance; 1 is none.
        eta: share of the part along the estimate that is kept.
        momentum: beta, of the difference of the call before; 0 is none.
        bound: r, the largest length of the difference; None: unbounded.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
    """

    def __init__(
        self,
        *,
        weight: float = 3.0,
        eta: float = 0.0,
        momentum: float = -0.5,
        bound: float | None = None,
        interval: tuple[float, float] | None = None,
    ):
        super().__init__(weight, interval)
        if not -1 < momentum < 1:
            raise ValueError(f"`momentum={momentum}` must lie between -1 and 1")
        if bound is not None and bound <= 0:
            raise ValueError(f"`bound={bound}` must be above 0, or null for none")
        self.eta = eta
        self.momentum = momentum
        self.bound = bound

    def mix(self) -> Callable[[Prediction, Prediction], Prediction]:
        before, last, at = None, None, None

        def projected(none: Prediction, told: Prediction) -> Prediction:
            nonlocal before, last, at
            difference = told.x0 - none.x0
            if self.momentum != 0:
                if at is None or not torch.equal(at, told.t):  # several calls at one level have one before them
                    before, at = last, told.t
                difference = difference if before is None else difference + self.momentum * before
                last = difference
            return told.shifted(x0=(self.weight - 1) * self.projected(difference, told.x0))

        return projected

    def projected(self, difference: Tensor, x_0: Tensor) -> Tensor:
        """The part of the difference [B, ...] across x_0 [B, ...] and a share of that along it, after the bound."""
        rows, direction = difference.flatten(1), torch.nn.functional.normalize(x_0.flatten(1), dim=1)
        if self.bound is not None:
            rows = rows * (self.bound / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        along = (rows * direction).sum(1, keepdim=True) * direction
        return (rows - along + self.eta * along).view_as(difference)
