"""A discriminator whose maps must hold what it saw: small decoders make its real images again (FastGAN)."""

from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.discriminators.plain import PlainDiscriminator
from sparring.networks import ConvDiscriminator
from sparring.networks.precision import at_least_float32
from sparring.networks.residual import resolutions


class ReconstructingDiscriminator(Discriminator):
    """Logits of an image at full and at half size, and decoders of the maps behind them.

    Three decoders make the image again: from the smallest map, from the smallest map of the half-sized image, and, from
    one map above the smallest, a random quadrant of the image. What they make is compared with what the discriminator
    saw, augmented as it was. Source: Liu et al., "FastGAN" (arXiv 2101.04775), which compares by a perceptual distance;
    the mean absolute difference, which small images need, is ours.

    Args:
        discriminator: one with a `ConvDiscriminator`; that of half-sized images is made after it.

    Raises:
        ValueError: another network, or images whose sides are odd.
    """

    def __init__(self, *, discriminator: PlainDiscriminator) -> None:
        super().__init__()
        net = discriminator.net
        if not isinstance(net, ConvDiscriminator) or net.neighbour:
            raise ValueError(
                f"{type(net).__name__}: decoders need the maps of a ConvDiscriminator that sees single images"
            )
        height, width = net.sizes[-1]
        if height % 2 or width % 2:
            raise ValueError(f"images of {width}x{height} pixels have no half size: set --data.size to an even number")
        size = (height // 2, width // 2)
        widths = net.widths[: len(resolutions(size))]
        half = ConvDiscriminator(net.in_channels, size, widths, num_classes=net.num_classes)
        self.discriminator = discriminator
        self.halved = PlainDiscriminator(net=half, given=discriminator.given)
        self.level = min(1, len(net.sizes) - 1)  # of the map whose quadrants are decoded, from the smallest
        channels, colours = net.widths, net.in_channels
        self.decoders = nn.ModuleDict(
            {
                "whole": Decoder(channels[0], colours, doublings(net.sizes[0][0], height)),
                "halved": Decoder(half.widths[0], colours, doublings(half.sizes[0][0], height)),
                "quadrant": Decoder(channels[self.level], colours, doublings(net.sizes[self.level][0], height)),
            }
        )

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The augmented images themselves."""
        return self.discriminator.features(x, given, draws)

    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits [B, 2] at full and at half size, float32."""
        whole = self.discriminator.logits(features, given)
        half = self.halved.logits([F.avg_pool2d(features[0], 2)], given)
        return torch.stack([whole.view(len(whole)), half.view(len(half))], 1)

    @property
    def takes_labels(self) -> bool:
        return self.discriminator.takes_labels

    @property
    def num_classes(self) -> int | None:
        return self.discriminator.num_classes

    def reconstruction(self, features: Features, draws: Draws, *, shuffled: bool = False) -> Tensor:
        """Sum over the decoders of the mean absolute difference between what they make and what was seen, in float32.

        Args:
            features: of real images; those of fakes would hand the generator's images to the decoders.
            draws: which quadrant of each row.
            shuffled: compare with what was seen of another row: a control.
        """
        (x,) = features
        aim = x.roll(1, 0) if shuffled else x
        net, half = self.discriminator.net, self.halved.net
        assert isinstance(net, ConvDiscriminator)
        assert isinstance(half, ConvDiscriminator)
        maps = net.maps(x)
        part = draws.integers(4, (len(x),)).to(x.device)
        made = [
            (self.decoders["whole"](maps[-1]), aim),
            (self.decoders["halved"](half.maps(F.avg_pool2d(x, 2))[-1]), aim),
            (self.decoders["quadrant"](quadrant(maps[-1 - self.level], part)), quadrant(aim, part)),
        ]
        errors = [at_least_float32(found - seen).abs().mean() for found, seen in made]
        return torch.stack(errors).sum()


class Decoder(nn.Module):
    """A small map to an image: for each doubling, nearest upsampling, a 3x3 convolution and a gated linear unit.

    Args:
        channels: Of the map; half as many after each doubling, at least 8.
        out_channels: Of the image.
        steps: Doublings.
    """

    def __init__(self, channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(steps):
            after = max(8, channels // 2)
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, 2 * after, 3, padding=1), nn.GLU(1)]
            channels = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, out_channels, h 2^steps, w 2^steps]."""
        return self.layers(x)


def doublings(small: int, large: int) -> int:
    """How often a side doubles."""
    return round(log2(large / small))


def quadrant(x: Tensor, part: Tensor) -> Tensor:
    """Of each row [C, H, W] of even sides the quadrant [C, H/2, W/2]: 0 above left, 1 above right, 2, 3 below."""
    quarters = x.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return quarters[torch.arange(len(x), device=x.device), part]
