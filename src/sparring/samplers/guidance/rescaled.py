"""Rescaled guidance: common diffusion noise schedules and sample steps are flawed, section 3.4 (arXiv 2305.08891).

Status: no gain; less harm than plain guidance on digits, where no guidance is best (docs/results/sampling.md).

Classifier-free guidance with a large weight makes the output's standard deviation grow, and images too bright. Here the
guided output of each image is scaled back to the standard deviation of the output with the condition, and mixed with
the unscaled one:

    g = none + w (told - none),        output = phi g std(told) / std(g) + (1 - phi) g.

The standard deviation runs over all numbers of an image. The paper scales v-predictions of a schedule that ends in pure
noise; here, as in diffusers, it is the network's own output, whatever that is.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from sparring.generators import Prediction
from sparring.generators.predictor import ClassifierFree


class RescaledGuidance(ClassifierFree):
    """Classifier-free guidance that keeps the spread of the output.

    Args:
        weight: scale of the guidance; 1 is none.
        rescale: phi; 0 is ordinary guidance.
        interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
    """

    def __init__(self, *, weight: float = 3.0, rescale: float = 0.7, interval: tuple[float, float] | None = None):
        super().__init__(weight, interval)
        if not 0 <= rescale <= 1:
            raise ValueError(f"`rescale={rescale}` must lie in [0, 1]")
        self.rescale = rescale

    def mix(self) -> Callable[[Prediction, Prediction], Prediction]:
        return self.linear if self.rescale == 0 else self.rescaled

    def rescaled(self, none: Prediction, told: Prediction) -> Prediction:
        guided = self.linear(none, told).output
        scaled = guided * (spread(told.output) / spread(guided))
        return replace(told, output=self.rescale * scaled + (1 - self.rescale) * guided)


def spread(x: Tensor) -> Tensor:
    """Standard deviation of the numbers of each row, [B, 1, 1, ...]."""
    return x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1)).clamp(min=1e-12)
