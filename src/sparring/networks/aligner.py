"""A small network from features of a denoiser to an image of its condition."""

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn.functional import silu


class Aligner(ModelMixin, ConfigMixin):
    """From features [B, in_channels, H, W] and times to an image [B, out_channels, H, W]: `net(features, time)`.

    A convolution of 1x1, then ones of 3x3, each followed by a normalisation by groups and a term of the time, and one
    of 1x1 at the end. Source: LaCon (arXiv 2305.11520), whose normalisation is over the batch.

    Args:
        in_channels: Of the features.
        widths: Channels of the convolutions.
        groups: Of the normalisation; they divide the widths.
        out_channels: Of the image.

    Raises:
        ValueError: A size below 1, or widths that are no multiple of the groups.
    """

    @register_to_config
    def __init__(
        self, in_channels: int, widths: Sequence[int] = (64, 32, 32), groups: int = 8, out_channels: int = 1
    ) -> None:
        super().__init__()
        if min(in_channels, groups, out_channels, *widths) < 1 or any(width % groups for width in widths):
            raise ValueError(
                f"`widths={list(widths)}`, `groups={groups}`: sizes are at least 1, and groups divide widths"
            )
        embedded = 4 * widths[0]
        self.time_steps = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(widths[0], embedded), nn.SiLU())
        sizes = list(zip([in_channels, *widths], widths, strict=False))
        self.layers = nn.ModuleList(
            nn.Conv2d(taken, given, 3 if number else 1, padding=1 if number else 0)
            for number, (taken, given) in enumerate(sizes)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for width in widths)
        self.times = nn.ModuleList(nn.Linear(embedded, width) for width in widths)
        self.read_out = nn.Conv2d(widths[-1], out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, in_channels, H, W] and the network's times [B] to [B, out_channels, H, W]."""
        embedded = self.time_embedding(self.time_steps(time).to(x.dtype))
        for layer, norm, of_time in zip(self.layers, self.norms, self.times, strict=True):
            x = silu(norm(layer(x)) + of_time(embedded)[:, :, None, None])
        return self.read_out(x)
