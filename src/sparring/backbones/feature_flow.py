"""A density of images, by a normalising flow on the features of a frozen backbone, and the region that reals fill."""

import math

import torch
from torch import Tensor, nn

from sparring.backbones.backbone import Backbone, freeze
from sparring.networks.glow import GlowNet
from sparring.networks.precision import at_least_float32


class FeatureFlow(nn.Module):
    """From images to the logarithm of their density in features: `net(x, time)`, of clean images whatever the time.

    Features are scaled to [-1, 1] by the least and the largest that was seen of each; one that never changed is 0. Only
    the flow is trained. Source: Diverse rare samples (arXiv 2412.19543), official code; that scales to [0, 1].

    Args:
        base: The network of the features.
        levels: Of the flow, a `GlowNet` of maps of one pixel.
        steps: Of every level.
        width: Hidden channels of its couplings.
        num_reals: Images whose features are kept, at most.

    Attributes:
        codes: [num_reals, d] scaled features of real images.
        radii: [num_reals] distance of each to its third nearest; below 0 where none is kept.
        spread: root of the mean squared distance of two real images.

    Raises:
        ValueError: No number of features is known before images are seen, or fewer reals than neighbours.
    """

    def __init__(
        self, *, base: Backbone, levels: int = 2, steps: int = 8, width: int = 64, num_reals: int = 5000
    ) -> None:
        super().__init__()
        if base.dim < 2 or num_reals < 4:
            raise ValueError(
                f"`net.base`, `num_reals={num_reals}`: a backbone of 2 features or more, and 4 real images or more"
            )
        self.base = freeze(base)
        self.flow = GlowNet(base.dim, 1, levels, steps, width)
        self.low = frozen(torch.zeros(base.dim))
        self.high = frozen(torch.ones(base.dim))
        self.codes = frozen(torch.zeros(num_reals, base.dim))
        self.radii = frozen(torch.full((num_reals,), -1.0))
        self.spread = frozen(torch.ones(()))

    def scaled(self, images: Tensor) -> Tensor:
        """Scaled features [B, d] of images [B, C, H, W], with gradient."""
        width = self.high - self.low
        middle = (self.high + self.low) / 2
        return (self.base.features(images) - middle) / torch.where(width > 0, width / 2, 1.0)

    def log_density(self, codes: Tensor) -> Tensor:
        """[B] natural logarithms, at least float32, of the density of scaled features [B, d]."""
        z, volume = self.flow.encode(codes[:, :, None, None])
        z = at_least_float32(z)
        return volume - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, 1] of images [B, C, H, W]."""
        return self.log_density(self.scaled(x))[:, None]

    @torch.no_grad()
    def is_real(self, codes: Tensor) -> Tensor:
        """Whether scaled features [B, d] lie among the reals: in a ball about one, out to its third nearest [B]."""
        return (torch.cdist(codes, self.codes) <= self.radii).any(1)


def frozen(value: Tensor) -> nn.Parameter:
    """What is set once, before the first step, and never learns."""
    return nn.Parameter(value, requires_grad=False)
