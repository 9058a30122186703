"""The first half of a U-Net with time, as a network from noisy images to a few numbers: what guides a sampler."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class HalfUNet(ModelMixin, ConfigMixin):
    """From noisy images [B, in_channels, H, W] and times to numbers [B, out_channels]: `net(x, time)`.

    Residual blocks with the time as scale and shift, halving between the widths, and at the end a weighted mean over
    positions (one learned query), after the noisy classifier of Dhariwal and Nichol (arXiv 2105.05233), whose
    attention inside the blocks is left out. Normalisation is by groups, so that rows do not see each other.

    Args:
        in_channels: Of the images.
        widths: Channels of each resolution, from the images' own on.
        blocks: Residual blocks of each resolution.
        groups: Of the normalisation; they divide the widths.
        out_channels: Numbers for each image.

    Raises:
        ValueError: A size below 1, or widths that are no multiple of the groups.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        groups: int = 8,
        out_channels: int = 10,
    ) -> None:
        super().__init__()
        if min(in_channels, blocks, groups, out_channels, *widths) < 1 or any(width % groups for width in widths):
            raise ValueError(
                f"`widths={list(widths)}`, `groups={groups}`, `out_channels={out_channels}`: sizes are at least 1, and "
                "the groups divide the widths"
            )
        embedded = 4 * widths[0]
        self.time_steps = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(widths[0], embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.read_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        made, before = [], widths[0]
        for number, width in enumerate(widths):
            for block in range(blocks):
                down = number > 0 and block == 0
                sizes = dict(in_channels=before, out_channels=width, temb_channels=embedded, groups=groups)
                made.append(ResnetBlock2D(**sizes, time_embedding_norm="scale_shift", down=down))  # type: ignore[arg-type]
                before = width
        self.layers = nn.ModuleList(made)
        self.normalised = nn.Sequential(nn.GroupNorm(groups, before), nn.SiLU())
        self.query = nn.Conv2d(before, 1, 1)
        self.read_out = nn.Linear(before, out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, C, H, W] and the network's times [B] to [B, out_channels]."""
        embedded = self.time_embedding(self.time_steps(time).to(x.dtype))
        x = self.read_in(x)
        for layer in self.layers:
            x = layer(x, embedded)
        x = self.normalised(x)
        weights = torch.softmax(self.query(x).flatten(2), dim=2)
        return self.read_out((x.flatten(2) * weights).sum(2))
