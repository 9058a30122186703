"""A small generator of edited images: half the resolution, three residual blocks, one transformer block."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.residual import Residual

BLOCKS = 3
HEADS = 4


class EditNet(ModelMixin, ConfigMixin):
    """From images to their edits in one pass: `net(z, source=image)`; z is not read.

    A strided convolution to half the resolution, three residual blocks, a transformer block over all positions, and
    back, beside the image itself at full resolution. Source: the parts are those of the generator of E2GAN (arXiv
    2401.06127), the sizes ours.

    Args:
        sample_size: Width and height of the images; even.
        in_channels: Of both.
        width: Channels inside; a multiple of 4.

    Raises:
        ValueError: An odd size, or a width that four heads cannot share.
    """

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        if sample_size % 2 or width % HEADS:
            raise ValueError(f"`sample_size={sample_size}` must be even, and `width={width}` a multiple of {HEADS}")
        self.source_shape = (in_channels, sample_size, sample_size)
        self.down = nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(Residual(width, 1, BLOCKS) for _ in range(BLOCKS))
        self.position = nn.Parameter(torch.zeros(1, (sample_size // 2) ** 2, width))
        self.transformer: Any = BasicTransformerBlock(width, HEADS, width // HEADS)
        self.up = nn.Conv2d(width, width, 3, padding=1)
        self.to_image = nn.Conv2d(width + in_channels, in_channels, 3, padding=1)

    def forward(self, z: Tensor, source: Tensor) -> Tensor:
        """Images [B, C, H, W] of sources [B, C, H, W]."""
        x = self.down(source)
        for block in self.blocks:
            x = block(x)
        tokens = self.transformer(x.flatten(2).mT + self.position)
        x = self.up(F.interpolate(tokens.mT.view_as(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        return self.to_image(torch.cat([F.leaky_relu(x, 0.2), source], 1))
