"""A generator and a discriminator that grow from 4x4 pixels to the size of the images (arXiv 1710.10196)."""

import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.conv_discriminator import Spread
from sparring.networks.residual import resolutions, widths_for

WHOLE = 1_000_000  # a stage is kept as an integer, in millionths, which an average copies and does not blur


class Stage(nn.Module):
    """How far a network has grown: 0 is the smallest map, 1 one doubling, 0.3 the first doubling faded in by 0.3.

    Args:
        last: doublings up to the size of the images.
    """

    millionths: Tensor

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.register_buffer("millionths", torch.zeros((), dtype=torch.long))

    @property
    def value(self) -> float:
        return self.millionths.item() / WHOLE

    @value.setter
    def value(self, stage: float) -> None:
        self.millionths.fill_(round(min(max(stage, 0.0), float(self.last)) * WHOLE))

    @property
    def level(self) -> int:
        """The largest map that takes part."""
        return math.ceil(self.value)

    @property
    def share(self) -> float:
        """Of that map, in (0, 1]; the rest is left to the map before it."""
        return 1.0 - (self.level - self.value)

    def at_level(self, x: Tensor, *, blend: bool = False) -> Tensor:
        """Images [B, C, H, W] of full size as images of the present level.

        Args:
            x: the images.
            blend: mix them with what is left of them at the level before, as the generator's fading layers do.
        """
        x = F.avg_pool2d(x, 2 ** (self.last - self.level))
        return faded(doubled(F.avg_pool2d(x, 2)), x, self.share) if blend and self.level > 0 else x


class EqualConv2d(nn.Conv2d):
    """A convolution with weights of unit variance, which are multiplied by `gain / sqrt(fan-in)` in every pass.

    So each weight has the same size, and Adam moves all layers at one pace (Karras et al. 2018, "Progressive Growing of
    GANs", section 4.1).

    Args:
        in_channels: Of the map.
        out_channels: Of the result.
        kernel_size: Of the convolution.
        gain: sqrt(2) keeps the variance through a rectifier, 1 without.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        gain: float = math.sqrt(2),
        padding: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        self.scale = gain / math.sqrt(self.weight[0].numel())
        nn.init.normal_(self.weight)
        nn.init.constant_(self.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.scale, self.bias)


class GrowingGenerator(ModelMixin, ConfigMixin):
    """From latents [B, latent_dim] to images [B, out_channels, H, W] of full size, whatever the stage: `net(z)`.

    Every level doubles the map, with two 3x3 convolutions, LeakyReLU 0.2 and `pixel_norm`; what the present level draws
    is faded in over what the level before draws, and repeated to full size. Source: Karras et al. 2018, "Progressive
    Growing of GANs" (arXiv 1710.10196), section 2 and appendix A; sizes are ours.

    Args:
        latent_dim: Numbers in z.
        out_channels: Of the images.
        size: Their width and height, or [height, width].
        widths: Channels from the smallest map to the images' size; None: by the size.

    Raises:
        ValueError: Sizes that do not fit.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        out_channels: int = 1,
        size: int | Sequence[int] = 8,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        sizes = resolutions(size)
        channels = widths_for(size, widths, 1)
        self.start_size = sizes[0]
        self.stage = Stage(len(sizes) - 1)
        self.start = EqualConv2d(latent_dim, channels[0] * sizes[0][0] * sizes[0][1], 1)
        before = [channels[0], *channels[:-1]]
        self.first = nn.ModuleList(EqualConv2d(a, b, 3, padding=1) for a, b in zip(before, channels, strict=True))
        self.second = nn.ModuleList(EqualConv2d(b, b, 3, padding=1) for b in channels[1:])
        self.draw = nn.ModuleList(EqualConv2d(b, out_channels, 1, gain=1.0) for b in channels)

    def forward(self, z: Tensor) -> Tensor:
        """Images of full size, nominally in [-1, 1]."""
        x = self.start(pixel_norm(z)[:, :, None, None]).view(len(z), -1, *self.start_size)
        x = activated(self.first[0](activated(x)))
        image = self.draw[0](x)
        for level in range(1, self.stage.level + 1):
            x = activated(self.second[level - 1](activated(self.first[level](doubled(x)))))
            if level >= self.stage.level - 1:  # what is drawn further below is not seen
                new = self.draw[level](x)
                image = new if level < self.stage.level else faded(doubled(image), new, self.stage.share)
        return doubled(image, self.stage.last - self.stage.level)


class GrowingDiscriminator(nn.Module):
    """From images of the present level [B, in_channels, h, w] to logits [B]: `net(stage.at_level(x))`.

    The mirror of `GrowingGenerator`, without normalisation; how much the rows of a group differ is one more channel of
    the smallest map (`Spread`). Source: Karras et al. 2018 (arXiv 1710.10196), sections 2 and 3; sizes are ours.

    Args:
        in_channels: Of the images.
        size: Their width and height when all is grown, or [height, width].
        widths: Channels from the smallest map to the images' size; None: by the size.
        spread: Rows of a group; 0: no such channel.

    Raises:
        ValueError: Sizes that do not fit; in `forward`, images of another level.
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: int | Sequence[int] = 8,
        widths: Sequence[int] | None = None,
        spread: int = 4,
    ) -> None:
        super().__init__()
        self.sizes = resolutions(size)
        channels = widths_for(size, widths, 1)
        self.stage = Stage(len(self.sizes) - 1)
        after = [channels[0], *channels[:-1]]
        self.see = nn.ModuleList(EqualConv2d(in_channels, b, 1) for b in channels)
        self.spread = Spread(spread) if spread else nn.Identity()
        extra = [1 if spread else 0, *[0] * (len(channels) - 1)]
        self.first = nn.ModuleList(
            EqualConv2d(b + more, b, 3, padding=1) for b, more in zip(channels, extra, strict=True)
        )
        self.second = nn.ModuleList(
            EqualConv2d(b, a, 3, padding=1) for b, a in zip(channels[1:], after[1:], strict=True)
        )
        self.whole = EqualConv2d(channels[0], channels[0], self.sizes[0])
        self.read_out = EqualConv2d(channels[0], 1, 1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        level = self.stage.level
        if tuple(x.shape[2:]) != self.sizes[level]:
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels, and the present level sees {self.sizes[level]}")
        hidden = rectified(self.see[level](x))
        for below in range(level, 0, -1):
            hidden = rectified(self.second[below - 1](rectified(self.first[below](hidden))))
            hidden = F.avg_pool2d(hidden, 2)
            if below == level and self.stage.share < 1:
                hidden = faded(rectified(self.see[level - 1](F.avg_pool2d(x, 2))), hidden, self.stage.share)
        hidden = rectified(self.whole(rectified(self.first[0](self.spread(hidden)))))
        return self.read_out(hidden).flatten()


def pixel_norm(x: Tensor) -> Tensor:
    """x over the root of its mean square over channels plus 1e-8: every pixel gets the length sqrt(C)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def rectified(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def activated(x: Tensor) -> Tensor:
    return pixel_norm(rectified(x))


def doubled(x: Tensor, times: int = 1) -> Tensor:
    """Each pixel repeated to 2^times a side."""
    return x if times == 0 else F.interpolate(x, scale_factor=float(2**times), mode="nearest")


def faded(old: Tensor, new: Tensor, share: float) -> Tensor:
    """`(1 - share) old + share new`; exactly the one or the other at the ends."""
    return new if share == 1 else (1 - share) * old + share * new
