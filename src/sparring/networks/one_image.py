"""A network that is one image: what is made when a single object is optimised."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class OneImage(ModelMixin, ConfigMixin):
    """The same image [B, C, H, W] in (-1, 1) whatever the latents: `net(z)`, `tanh` of as many weights as pixels.

    Args:
        channels: C.
        size: Height and width.
        std: Of the weights at the start, around 0: grey.

    Raises:
        ValueError: A size below 1.
    """

    @register_to_config
    def __init__(self, channels: int = 1, size: int = 8, std: float = 0.1) -> None:
        super().__init__()
        if min(channels, size) < 1 or std < 0:
            raise ValueError(f"`channels={channels}`, `size={size}` must be at least 1, and `std={std}` 0 or more")
        self.image = nn.Parameter(std * torch.randn(1, channels, size, size))

    def forward(self, z: Tensor) -> Tensor:
        """The image, as often as there are rows of z."""
        return self.image.tanh().expand(len(z), -1, -1, -1)
