"""A small residual generator of images for GANs, after R3GAN (Huang et al., arXiv 2501.05441)."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ConvGenerator(ModelMixin, ConfigMixin):
    """From latents [B, latent_dim] to images [B, out_channels, size, size]: `net(z)`, or `net(z, labels)` with classes.

    A 4x4 map, linear in z, grows by bilinear upsampling to `size`, with two residual blocks at every resolution: 1x1,
    LeakyReLU, grouped 3x3, LeakyReLU, 1x1, without any normalisation, so that no row of a batch knows another. The last
    convolution of a block starts at 0, as in R3GAN; widths and the output without tanh are our choice.

    Args:
        latent_dim: Numbers in z.
        out_channels: Of the images.
        size: Width and height of the images: 4 times a power of two.
        widths: Channels at 4x4 and at each doubling; as many as there are resolutions.
        groups: Of the 3x3 convolutions; they divide the widths.
        num_classes: Classes that are embedded and joined to z; None: none.

    Raises:
        ValueError: A size that is no doubling of 4, or as many widths as it does not need.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        out_channels: int = 1,
        size: int = 8,
        widths: Sequence[int] = (64, 64),
        groups: int = 8,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if not widths or size != 4 * 2 ** (len(widths) - 1):
            raise ValueError(f"`size={size}`, `widths={list(widths)}`: 4 * 2^k pixels need k + 1 widths")
        if groups < 1 or any(width % groups for width in widths):
            raise ValueError(f"`groups={groups}` must divide each of `widths={list(widths)}`")
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_dim)
        self.start = nn.Linear(latent_dim * (1 if num_classes is None else 2), widths[0] * 16)
        self.changes = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.blocks = nn.ModuleList(nn.Sequential(Residual(width, groups), Residual(width, groups)) for width in widths)
        self.last = nn.Conv2d(widths[-1], out_channels, 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [B, C, size, size], nominally in [-1, 1], of latents [B, latent_dim] and labels [B]."""
        if (labels is None) != (self.embedding is None):
            raise ValueError("labels and `num_classes` of the ConvGenerator belong together: give both or none")
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], dim=1)
        x = self.blocks[0](self.start(z).unflatten(1, (-1, 4, 4)))
        for change, block in zip(self.changes, self.blocks[1:], strict=True):
            x = block(change(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)))
        return self.last(x)


class Residual(nn.Module):
    """x + f(x), f a bottleneck of three convolutions without normalisation; the identity at the start.

    Args:
        width: Channels.
        groups: Of the 3x3 convolution.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 1)
        self.middle = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(width, width, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(F.leaky_relu(self.first(x), 0.2))
        return x + self.last(F.leaky_relu(hidden, 0.2))
