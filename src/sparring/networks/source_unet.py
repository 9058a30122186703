"""A U-Net that sees another image beside the noisy one: a source of any size, as for super-resolution."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import interpolate

from sparring.networks.plain_unet import plain_unet


class SourceUNet(ModelMixin, ConfigMixin):
    """`net(x, time, source=source)`: a UNet2DModel without attention, to which the source is given as further channels.

    The source [B, c, h, w] is enlarged to the size of x (bilinear), as in image super-resolution by iterative
    refinement (Saharia et al., arXiv 2104.07636, there bicubic).

    Args:
        sample_size: Width and height of x, or [height, width].
        in_channels: Channels of x and of the output.
        source_channels: Channels of the source.
        block_out_channels: Channels of each resolution.
        layers_per_block: Residual blocks of each resolution.
        norm_num_groups: Groups of the normalisations; they divide the channels.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | Sequence[int],
        in_channels: int = 1,
        source_channels: int = 1,
        block_out_channels: Sequence[int] = (16, 32),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        sizes = (block_out_channels, layers_per_block, norm_num_groups)
        self.net = plain_unet(sample_size, in_channels + source_channels, in_channels, *sizes)

    def forward(self, x: Tensor, time: Tensor | float | int, source: Tensor) -> Tensor:
        """The output [B, C, H, W] for x [B, C, H, W] at times (a number or [B]) and sources [B, c, h, w]."""
        enlarged = interpolate(source.to(x), x.shape[-2:], mode="bilinear", align_corners=False)
        return self.net(torch.cat([x, enlarged], dim=1), time).sample
