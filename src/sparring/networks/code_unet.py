"""A U-Net that is conditioned on a code: a vector that is added to its time embedding."""

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.plain_unet import plain_unet


class CodeUNet(ModelMixin, ConfigMixin):
    """`net(x, time, source=code)`: a UNet2DModel without attention, to whose time embedding a map of the code is added.

    The map is linear and starts at 0, so that at first the network does not see the code.

    Args:
        sample_size: Width and height of x, or [height, width].
        in_channels: Channels of x and of the output.
        code_dim: Numbers of a code.
        block_out_channels: Channels of each resolution.
        layers_per_block: Residual blocks of each resolution.
        norm_num_groups: Groups of the normalisations; they divide the channels.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | Sequence[int],
        in_channels: int = 1,
        code_dim: int = 64,
        block_out_channels: Sequence[int] = (16, 32),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        sizes = (block_out_channels, layers_per_block, norm_num_groups)
        self.net = plain_unet(sample_size, in_channels, in_channels, *sizes, class_embed_type="identity")
        self.read_code = nn.Linear(code_dim, 4 * block_out_channels[0])
        for parameter in self.read_code.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor | float | int, source: Tensor) -> Tensor:
        """The output [B, C, H, W] for x [B, C, H, W] at times (a number or [B]) and codes [B, code_dim]."""
        if source.shape[-1] != self.read_code.in_features:
            raise ValueError(
                f"`code_dim={self.read_code.in_features}` of the network, and codes have {source.shape[-1]} numbers: "
                "set it to that"
            )
        return self.net(x, time, class_labels=self.read_code(source.to(x))).sample
