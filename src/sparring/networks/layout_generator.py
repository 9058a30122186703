"""A small generator of images from a label map and a latent."""

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.networks.residual import Residual


class LayoutGenerator(ModelMixin, ConfigMixin):
    """From latents [B, latent_dim] and label maps [B, source_channels, H, W] to images: `net(z, source=map)`.

    Residual blocks at full resolution, into each of which the latent enters as an embedding (`Residual`). Our choice;
    DP-SIMS lets noise enter by cross-attention.

    Args:
        latent_dim: Numbers in z.
        out_channels: Of the images.
        size: Their width and height, or [height, width].
        source_channels: Of the label maps.
        width: Channels of the blocks.
        depth: Blocks, each of which sees one pixel further.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 16,
        out_channels: int = 1,
        size: int | Sequence[int] = 8,
        source_channels: int = 1,
        width: int = 32,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.height, self.width = (size, size) if isinstance(size, int) else tuple(size)
        self.embedding = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.read_in = nn.Conv2d(source_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(width, 1, depth, width) for _ in range(depth))
        self.last = nn.Conv2d(width, out_channels, 1)
        self.source_channels = source_channels

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a label map."""
        return self.source_channels, self.height, self.width

    def forward(self, z: Tensor, source: Tensor) -> Tensor:
        """Images [B, out_channels, H, W]."""
        embedded, x = self.embedding(z), self.read_in(source)
        for block in self.blocks:
            x = block(x, embedded)
        return self.last(x)
