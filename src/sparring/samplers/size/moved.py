"""Moved places: what a network draws, drawn elsewhere on the canvas (after Choi et al., arXiv 2108.01285).

Status: no gain by its measure; moved digits are worse than unmoved ones (docs/results/sampling.md).

A network that is given the places of its maps (recipe `positional`) has places that can be moved, and its images with
them, by any number of pixels:

    out = net(x_t, t; PE(y - down, x - right)),        x_0 <- x_0 rolled back by (down, right)

The last step is there to look at, and to measure, the image where it would have been: of a network that is spatially
unbiased it is as good as an unmoved one, of a network that knows the edges of its canvas by the zeros beyond them it is
not. The paper moves GANs; for denoisers its abstract says that it works, and the rolling back is ours.
"""

from typing import Any

import torch
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Again, Intervention, Predictor


class Moved(Intervention):
    """The places moved while a network is called, and the finished images rolled back.

    Args:
        down: pixels; 0 and 0 is the plain sampler.
        right: pixels.
        back: finished images are rolled back by as much; else they stay where they were drawn.
    """

    place = "call"

    def __init__(self, *, down: int = 4, right: int = 0, back: bool = True):
        self.down, self.right = down, right
        self.back = back

    def check(self, denoiser: DenoisingNetwork) -> None:
        if not hasattr(denoiser.net, "shifted"):
            raise ValueError(
                f"{self.label} moves the places that a network is given, and {type(denoiser.net).__name__} is given "
                "none: train one with recipe positional"
            )
        _, height, width = denoiser.image_shape
        if abs(self.down) >= height or abs(self.right) >= width:
            raise ValueError(f"`down={self.down}`, `right={self.right}`: the images have {height}x{width} pixels")

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        net: Any = denoiser.net

        def moved(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            with net.shifted(self.down, self.right):
                return inner(x_t, level, condition)

        return moved

    def finish(self, x_0: Tensor, again: Again, denoiser: DenoisingNetwork) -> Tensor:
        return torch.roll(x_0, (-self.down, -self.right), dims=(-2, -1)) if self.back else x_0
