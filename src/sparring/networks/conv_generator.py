"""A small residual generator of images for GANs, after R3GAN (Huang et al., arXiv 2501.05441)."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.residual import PER_RESOLUTION, Residual, resolutions, widths_for


class ConvGenerator(ModelMixin, ConfigMixin):
    """From latents [B, latent_dim] to images [B, out_channels, H, W]: `net(z)`, or `net(z, labels)` with classes.

    A map of 4 or 7 pixels a side, linear in z, doubles by bilinear upsampling to `size`, with two residual blocks at
    every resolution and no normalisation, so that no row of a batch knows another (`Residual`; as in R3GAN). Sizes and
    the output without tanh are our choice.

    Args:
        latent_dim: Numbers in z.
        out_channels: Of the images.
        size: Their width and height, or [height, width].
        widths: Channels from the smallest map to the images' size, as many as there are resolutions; None: by the size.
        groups: Of the 3x3 convolutions; they divide the widths.
        num_classes: Classes that are embedded and joined to z; None: none.
        time: A time t is joined to z.
        excitation: The smallest map gates the channels of the largest, see `SkipExcitation`.

    Raises:
        ValueError: Sizes that do not fit; in `forward`, labels or times without the setting, or the reverse.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        out_channels: int = 1,
        size: int | Sequence[int] = 8,
        widths: Sequence[int] | None = None,
        groups: int = 1,
        num_classes: int | None = None,
        time: bool = False,
        excitation: bool = False,
    ) -> None:
        super().__init__()
        self.time = time
        self.start_size = resolutions(size)[0]
        widths = widths_for(size, widths, groups)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_dim)
        joined = latent_dim * (1 if num_classes is None else 2) + time
        self.start = nn.Linear(joined, widths[0] * self.start_size[0] * self.start_size[1])
        self.changes = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False) for before, after in zip(widths, widths[1:], strict=False)
        )
        depth = PER_RESOLUTION * len(widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width, groups, depth) for _ in range(PER_RESOLUTION))) for width in widths
        )
        self.skip = SkipExcitation(widths[0], widths[-1]) if excitation else None
        self.last = nn.Conv2d(widths[-1], out_channels, 1)

    def forward(self, z: Tensor, labels: Tensor | None = None, *, t: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1], of latents [B, latent_dim], labels [B] and times [B]."""
        if (labels is None) != (self.embedding is None):
            raise ValueError("labels and `num_classes` of the ConvGenerator belong together: give both or none")
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], dim=1)
        if (t is None) == self.time:
            raise ValueError("t and `time` of the ConvGenerator belong together: give both or none")
        if t is not None:
            z = torch.cat([z, t.to(z)[:, None]], dim=1)
        x = smallest = self.blocks[0](self.start(z).unflatten(1, (-1, *self.start_size)))
        for change, block in zip(self.changes, self.blocks[1:], strict=True):
            x = block(change(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)))
        return self.last(x if self.skip is None else self.skip(smallest, x))


class SkipExcitation(nn.Module):
    """Skip-layer excitation: `sigmoid(f(low)) * high`, a gate for each channel of a large map from a small one.

    f pools to 4x4 pixels, a 4x4 convolution and a 1x1 one with LeakyReLU between. Source: Liu et al., "FastGAN" (arXiv
    2101.04775), where the maps are 16 times apart in size; here they are the smallest and the largest.

    Args:
        low: Channels of the small map.
        high: Channels of the large one.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(low, high, 4), nn.LeakyReLU(0.2), nn.Conv2d(high, high, 1), nn.Sigmoid()
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """[B, high, H, W] of maps [B, low, h, w] and [B, high, H, W]."""
        return self.gate(low) * high
