"""A U-Net that denoises an image and its label at once: a label is a pattern in the image, read in the middle."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.plain_unet import plain_unet


class JointUNet(ModelMixin, ConfigMixin):
    """`net(x, time)`: a UNet2DModel without attention for `z_0 = x_0 + amount pattern_y`, with a head for the label y.

    The patterns are fixed, +1 or -1 for each number of an image. The head is linear in the pooled middle of the U-Net.
    The output is the expected z_0, `x_0_pred + amount sum_k softmax(logits)_k pattern_k`.

    Args:
        sample_size: Width and height of the images.
        in_channels: Channels of the images.
        num_labels: Classes.
        amount: Of the pattern in the image.
        block_out_channels: Channels of each resolution.
        layers_per_block: Residual blocks of each resolution.
        norm_num_groups: Groups of the normalisations; they divide the channels.

    Raises:
        ValueError: Fewer than two classes, or a negative amount.
    """

    patterns: Tensor

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 1,
        num_labels: int = 10,
        amount: float = 0.2,
        block_out_channels: Sequence[int] = (16, 32),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        if num_labels < 2 or amount < 0:
            raise ValueError(f"`num_labels={num_labels}` must be at least 2, and `amount={amount}` 0 or more")
        sizes = (block_out_channels, layers_per_block, norm_num_groups)
        self.net = plain_unet(sample_size, in_channels, in_channels, *sizes)
        self.read_label = nn.Linear(block_out_channels[-1], num_labels)
        shape = (num_labels, in_channels, sample_size, sample_size)
        signs = torch.randint(2, shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("patterns", 2.0 * signs - 1)
        self.middle: Tensor | None = None
        self.net.mid_block.register_forward_hook(self.keep)

    def keep(self, block: nn.Module, given: Any, output: Tensor) -> None:
        """The hook."""
        self.middle = output

    def parts(self, x: Tensor, time: Tensor | float) -> tuple[Tensor, Tensor]:
        """The image [B, C, H, W] and the label's logits [B, num_labels] of noisy z [B, C, H, W]."""
        image = self.net(x, time).sample
        assert self.middle is not None
        logits, self.middle = self.read_label(self.middle.mean((2, 3))), None
        return image, logits

    def expected(self, image: Tensor, logits: Tensor) -> Tensor:
        """z_0 [B, C, H, W] of an image and of the probabilities of its labels."""
        return image + self.config["amount"] * torch.einsum("bk,kchw->bchw", logits.softmax(1), self.patterns.to(image))

    def forward(self, x: Tensor, time: Tensor | float) -> Tensor:
        """The expected z_0 [B, C, H, W] for z_t [B, C, H, W] at times (a number or [B])."""
        return self.expected(*self.parts(x, time))
