"""A denoising U-Net that is shown an image in the place of noise, and makes another of it in one pass."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.plain_unet import plain_unet

LAST = 999.0  # the network's time of pure noise
SKIP = 1e-5


class TurboUNet(ModelMixin, ConfigMixin):
    """`net(z, source=image)`: a UNet2DModel without attention at its noisiest time, and a 1x1 skip from the source.

    The skip starts at 1e-5, so that the image is that of the U-Net. Nothing is random: z is not read. Source: the
    generator of pix2pix-turbo (arXiv 2403.12036), there Stable Diffusion Turbo, with its skips in the autoencoder.

    Args:
        sample_size: Width and height of the images.
        in_channels: Of both.
        block_out_channels: Channels of each resolution.
        layers_per_block: Residual blocks of each resolution.
        norm_num_groups: Groups of the normalisations; they divide the channels.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 1,
        block_out_channels: Sequence[int] = (16, 32),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        self.source_shape = (in_channels, sample_size, sample_size)
        sizes = (block_out_channels, layers_per_block, norm_num_groups)
        self.net = plain_unet(sample_size, in_channels, in_channels, *sizes)
        self.skip = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        nn.init.constant_(self.skip.weight, SKIP)

    def forward(self, z: Tensor, source: Tensor) -> Tensor:
        """Images [B, C, H, W] of sources [B, C, H, W]."""
        return self.net(source, LAST).sample + self.skip(source)

    @torch.no_grad()
    def take(self, net: nn.Module, scale: float) -> None:
        """The weights of a trained U-Net, whose output at the last time is the image divided by `scale`.

        Raises:
            ValueError: its weights are others.
        """
        try:
            self.net.load_state_dict(net.state_dict())
        except RuntimeError:
            raise ValueError(
                f"the {type(net).__name__} of the start has other layers than the U-Net of the {type(self).__name__}: "
                "train the start on the same setting"
            ) from None
        self.net.conv_out.weight *= scale
        self.net.conv_out.bias *= scale
