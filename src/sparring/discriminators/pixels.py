"""A discriminator that decides for each pixel what it shows, or that it is fake: a decoder on a frozen backbone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import Backbone
from sparring.data import Draws, ImageData
from sparring.discriminators.discriminator import Features, Given
from sparring.discriminators.on_backbone import OnFrozenBackbone
from sparring.networks.precision import at_least_float32

NUM_IMAGES = 1000  # from which the statistics of the maps come


class PixelDiscriminator(OnFrozenBackbone):
    """Logits [B, K + 1, H, W] of the pixels' classes, the last for fake, by a U-shaped decoder of a backbone's maps.

    The maps are standardised for each channel with the mean and the deviation that they have on real images, because a
    few channels would outweigh all others; then, from the coarsest map on, each is doubled and joined by the next finer
    one. Source: Berrada et al. 2023, "Unlocking Pre-trained Image Backbones for Semantic Image Synthesis" (DP-SIMS,
    arXiv 2312.13314), as far as known to us; the exact form of the normalisation and the sizes are ours.

    Args:
        backbone: Gives the maps, and is frozen.
        num_classes: K.
        width: Channels of the decoder.
        pooled: All pixels of an image get the mean of its logits, so that there is one decision for an image: a
            control.
        augment: Policy of `DiffAugment`; "" for none. What moves pixels would part them from their classes.
    """

    def __init__(
        self, *, backbone: Backbone, num_classes: int = 2, width: int = 32, pooled: bool = False, augment: str = ""
    ) -> None:
        super().__init__(backbone, augment, crop=0.0)
        if augment not in ("", "color"):
            raise ValueError(
                f"`augment={augment}` would move pixels away from their classes: use color, or leave it out"
            )
        self.pooled = pooled
        for level, channels in enumerate(backbone.channels):
            self.register_buffer(f"mean_{level}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"std_{level}", torch.ones(1, channels, 1, 1))
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in backbone.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in backbone.channels)
        self.read_out = nn.Conv2d(width, num_classes + 1, 1)

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The backbone's standardised maps, the finest first."""
        maps = super().features(x, given, draws)
        return [
            (at_least_float32(one) - self.get_buffer(f"mean_{level}")) / self.get_buffer(f"std_{level}")
            for level, one in enumerate(maps)
        ]

    def logits(self, features: Features, given: Given) -> Tensor:
        """[B, K + 1, H, W], as large as the labels of the pixels, float32."""
        y: Tensor | None = None
        for level in reversed(range(len(features))):
            own = self.laterals[level](features[level])
            if y is not None:
                own = own + F.interpolate(y, own.shape[2:], mode="bilinear", align_corners=False)
            y = F.leaky_relu(self.smooth[level](F.leaky_relu(own, 0.2)), 0.2)
        made = at_least_float32(self.read_out(y))
        if given.labels is not None and made.shape[2:] != given.labels.shape[1:]:
            made = F.interpolate(made, given.labels.shape[1:], mode="bilinear", align_corners=False)
        return made.mean((2, 3), keepdim=True).expand_as(made) if self.pooled else made

    @property
    def needs_images(self) -> bool:
        return True

    @torch.no_grad()
    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the backbone if it needs that, and takes the statistics of its maps on real images."""
        if self.backbone.needs_images:
            with torch.enable_grad():
                super().prepare(data, seed)
        device = self.get_buffer("mean_0").device
        for level, one in enumerate(self.backbone.maps(data.images(min(len(data), NUM_IMAGES)).to(device))):
            self.get_buffer(f"mean_{level}").copy_(one.mean((0, 2, 3), keepdim=True))
            self.get_buffer(f"std_{level}").copy_(one.std((0, 2, 3), keepdim=True).clamp_min(1e-6))
