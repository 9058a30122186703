"""A normalising flow: a network that is inverted exactly and knows its volume (Kingma and Dhariwal, "Glow")."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.precision import at_least_float32

LOG_SCALE = 3.0  # a parameter l means a factor exp(3 l), so that scales learn faster
FAR, STEEP = 1e4, 20.0  # on the way back: of a map, and of the logarithm of a factor; those of images are far below


class ZeroConv(nn.Module):
    """A 3x3 convolution that gives 0 at the start, its output times exp(3 l) for each channel."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(before, after, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(after))
        for parameter in self.layer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H, W]."""
        return self.layer(x) * (LOG_SCALE * self.log_scale).exp()[:, None, None]


class FlowStep(nn.Module):
    """Actnorm, invertible 1x1 convolution and affine coupling of maps [B, C, H, W], C at least 2.

    Args:
        channels: C.
        width: Of the coupling's two hidden layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.kept = channels // 2
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.mixing = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())
        self.net = nn.Sequential(
            nn.Conv2d(self.kept, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            ZeroConv(width, 2 * (channels - self.kept)),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map and [B] logarithms of the volume's change."""
        places = x.shape[2] * x.shape[3]
        x = (x + self.shift[:, None, None]) * self.scale
        volume = LOG_SCALE * self.log_scale.sum() + torch.linalg.slogdet(self.mixing.double())[1].to(x)
        first, second = F.conv2d(x, self.mixing[:, :, None, None]).tensor_split([self.kept], dim=1)
        shift, log_scale = self.coupling(first)
        return torch.cat([first, (second + shift) * log_scale.exp()], 1), places * volume + log_scale.flatten(1).sum(1)

    def decode(self, x: Tensor) -> Tensor:
        """The inverse.

        It divides by scales that can be near 0 where no image has been; maps and factors are held at `FAR` and `STEEP`
        (ours), without which one sample of digits in a hundred overflows.
        """
        first, second = x.tensor_split([self.kept], dim=1)
        shift, log_scale = self.coupling(first)
        x = torch.cat([first, second * (-log_scale).clamp(max=STEEP).exp() - shift], 1)
        back = torch.linalg.inv(self.mixing.double()).to(x)
        x = F.conv2d(x, back[:, :, None, None]) / self.scale - self.shift[:, None, None]
        return x.clamp(-FAR, FAR)

    def coupling(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and logarithm of the scale, sigmoid(h + 2), for the second channels."""
        shift, scale = at_least_float32(self.net(first)).chunk(2, dim=1)
        return shift, F.logsigmoid(scale + 2)

    @property
    def scale(self) -> Tensor:
        """[C, 1, 1] of actnorm."""
        return (LOG_SCALE * self.log_scale).exp()[:, None, None]

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Sets actnorm so that these maps leave it with mean 0 and variance 1 in every channel."""
        self.shift.copy_(-x.mean((0, 2, 3)))
        self.log_scale.copy_(-(x.std((0, 2, 3), correction=0) + 1e-6).log() / LOG_SCALE)


class GlowNet(ModelMixin, ConfigMixin):
    """Images [B, C, H, W] to as many standard normal numbers and back: `net(z)` makes images, `net.encode(x)` numbers.

    A level squeezes 2x2 pixels into channels, if the sides are even, and has `steps` times `FlowStep`; then half of the
    channels leave as Gaussians whose mean and scale the other half tells. Source: Kingma and Dhariwal 2018 (arXiv
    1807.03039). Left out (ours): the channel that marks the edge, and a learned law of the last numbers.

    Args:
        channels: Of the images; for points, their coordinates.
        size: Width and height; 1 for points.
        levels: Squeezes.
        steps: Of every level.
        width: Hidden channels of the couplings.

    Raises:
        ValueError: A setting below 1, or a level with one channel.
    """

    @register_to_config
    def __init__(self, channels: int = 1, size: int = 8, levels: int = 2, steps: int = 8, width: int = 64) -> None:
        super().__init__()
        if min(channels, size, levels, steps, width) < 1:
            raise ValueError(
                f"`channels={channels}`, `size={size}`, `levels={levels}`, `steps={steps}`, `width={width}` must be at "
                "least 1"
            )
        self.shape = (channels, size, size)
        self.squeezed: list[bool] = []
        self.splits, self.flow = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            self.squeezed.append(size % 2 == 0)
            if size % 2 == 0:
                channels, size = 4 * channels, size // 2
            if channels < 2:
                raise ValueError(f"`levels={levels}`, `size={self.shape[1]}`: level {level + 1} has one channel only")
            self.flow.append(nn.ModuleList(FlowStep(channels, width) for _ in range(steps)))
            if level + 1 < levels:
                left = channels - channels // 2
                self.splits.append(ZeroConv(channels // 2, 2 * left))
                channels //= 2

    def encode(self, x: Tensor, standardise: bool = False) -> tuple[Tensor, Tensor]:
        """Numbers z [B, C H W] of images, and [B] `log |det dz / dx|`.

        Args:
            x: [B, C, H, W], nominally in [-1, 1].
            standardise: sets every actnorm by these images first, step by step.
        """
        found, volume = [], x.new_zeros(len(x))
        steps: Any
        for level, steps in enumerate(self.flow):
            x = F.pixel_unshuffle(x, 2) if self.squeezed[level] else x
            for step in steps:
                if standardise:
                    step.standardise(x)
                x, change = step.encode(x)
                volume = volume + change
            if level < len(self.splits):
                x, left = x.tensor_split([x.shape[1] // 2], dim=1)
                mean, log_scale = self.splits[level](x).chunk(2, dim=1)
                found.append((left - mean) * (-log_scale).exp())
                volume = volume - log_scale.flatten(1).sum(1)
        return torch.cat([part.flatten(1) for part in [*found, x]], dim=1), volume

    def forward(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] of z [B, C H W]: the inverse of `encode`."""
        channels, height, width = self.shape
        shapes = []
        for level, squeezed in enumerate(self.squeezed):
            if squeezed:
                channels, height, width = 4 * channels, height // 2, width // 2
            if level < len(self.splits):
                shapes.append((channels - channels // 2, height, width))
                channels //= 2
        shapes.append((channels, height, width))
        parts = [
            part.unflatten(1, shape)
            for part, shape in zip(z.split([c * h * w for c, h, w in shapes], 1), shapes, strict=True)
        ]
        x = parts[-1]
        for level in reversed(range(len(self.flow))):
            if level < len(self.splits):
                mean, log_scale = self.splits[level](x).chunk(2, dim=1)
                x = torch.cat([x, parts[level] * log_scale.clamp(max=STEEP).exp() + mean], 1)
            steps: Any = self.flow[level]
            for step in reversed(steps):
                x = step.decode(x)
            x = F.pixel_shuffle(x, 2) if self.squeezed[level] else x
        return x
