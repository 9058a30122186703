"""A small residual discriminator of images, trained from scratch, after R3GAN (Huang et al., arXiv 2501.05441)."""

import math
from collections.abc import Sequence

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.residual import PER_RESOLUTION, Residual, resolutions, widths_for


class ConvDiscriminator(nn.Module):
    """From images [B, in_channels, H, W] to logits [B]: `net(x)`, or `net(x, labels=…, t=…, x_t=…, joined=…)`.

    Two residual blocks at every resolution from `size` down to 4 or 7 pixels, each halving being a bilinear one (the
    mean of four pixels), without any normalisation; a weighted sum over positions for each channel, and a linear layer.
    The class enters as a projection, `logit + <e(label), features> / sqrt(width)` (Miyato and Koyama 2018, "cGANs with
    Projection Discriminator"), the time as a sinusoidal embedding that is added inside every block, and the noisier
    neighbour `x_t` as further channels (both as in DDGAN, arXiv 2112.07804). A vector that is joined to the image is
    embedded by two layers and enters as the time does. With an `out_shape` the network is an encoder, or a classifier,
    of the same kind. Sizes are ours.

    Args:
        in_channels: Of the images.
        size: Their width and height, or [height, width].
        widths: Channels from the smallest map to the images' size, as many as there are resolutions; None: by the size.
        groups: Of the 3x3 convolutions; they divide the widths.
        num_classes: Classes that it is conditioned on; None: it takes no labels.
        time: It is conditioned on the time t in [0, 1].
        neighbour: It is conditioned on the noisier neighbour x_t, of the images' shape.
        spread: Rows of a group whose spread is one more channel of the smallest map, see `Spread`; None: no such
            channel, so that rows know nothing of each other.
        joined: Numbers of a vector that belongs to each image; 0: there is none.
        out_shape: Shape of a row of the output, if it is not a single logit.

    Raises:
        ValueError: Sizes that do not fit; in `forward`, what it is conditioned on is missing, or there is more.
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: int | Sequence[int] = 8,
        widths: Sequence[int] | None = None,
        groups: int = 1,
        num_classes: int | None = None,
        time: bool = False,
        neighbour: bool = False,
        spread: int | None = None,
        joined: int = 0,
        out_shape: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if num_classes is not None and math.prod(out_shape) != 1:
            raise ValueError(
                f"`num_classes={num_classes}`: no class is projected on outputs of shape {list(out_shape)}"
            )
        sizes = resolutions(size)
        widths = widths_for(size, widths, groups)
        embedded = 2 * widths[0] if time or joined else 0
        self.in_channels, self.sizes, self.widths = in_channels, sizes, widths
        self.num_classes, self.neighbour = num_classes, neighbour
        self.read_in = nn.Conv2d(in_channels * (2 if neighbour else 1), widths[-1], 1)
        every = [width for width in widths[::-1] for _ in range(PER_RESOLUTION)]
        self.blocks = nn.ModuleList(Residual(width, groups, len(every), embedded) for width in every)
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.changes = nn.ModuleList(nn.Conv2d(before, after, 1, bias=False) for before, after in pairs)
        self.spread = None if spread is None else Spread(spread)
        channels = widths[0] + (spread is not None)
        self.sum = nn.Conv2d(channels, channels, sizes[0], groups=channels)
        self.out_shape = tuple(out_shape)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes, channels)
        self.time_steps = Timesteps(embedded, flip_sin_to_cos=True, downscale_freq_shift=0) if time else None
        self.time_embedding = (
            nn.Sequential(nn.Linear(embedded, embedded), nn.SiLU(), nn.Linear(embedded, embedded)) if time else None
        )
        self.joined_embedding = (
            nn.Sequential(nn.Linear(joined, embedded), nn.SiLU(), nn.Linear(embedded, embedded)) if joined else None
        )
        self.read_out = nn.Linear(channels, math.prod(out_shape))

    def features(
        self, x: Tensor, *, t: Tensor | None = None, x_t: Tensor | None = None, joined: Tensor | None = None
    ) -> Tensor:
        """What the last layer sees, [B, channels]."""
        return self.summary(self.maps(x, t=t, x_t=x_t, joined=joined)[-1])

    def maps(
        self, x: Tensor, *, t: Tensor | None = None, x_t: Tensor | None = None, joined: Tensor | None = None
    ) -> list[Tensor]:
        """The map of each resolution, the finest first: [B, width, H, W], [B, width, H / 2, W / 2] …"""
        check_told(x_t, self.neighbour, "x_t", "neighbour")
        check_told(t, self.time_embedding is not None, "t", "time")
        check_told(joined, self.joined_embedding is not None, "joined", "joined")
        if x_t is not None:
            x = torch.cat([x, x_t], 1)
        embedded = None
        if t is not None and self.time_steps is not None and self.time_embedding is not None:
            embedded = self.time_embedding(self.time_steps(1000 * t).to(x.dtype))
        if joined is not None and self.joined_embedding is not None:
            vector = self.joined_embedding(joined)
            embedded = vector if embedded is None else embedded + vector
        x = self.read_in(x)
        found = []
        for number, block in enumerate(self.blocks):
            if number > 0 and number % PER_RESOLUTION == 0:
                x = self.changes[number // PER_RESOLUTION - 1](F.avg_pool2d(x, 2))
            x = block(x, embedded)
            if number % PER_RESOLUTION == PER_RESOLUTION - 1:
                found.append(x)
        return found

    def summary(self, x: Tensor) -> Tensor:
        """What the last layer sees, [B, channels], of the smallest map."""
        x = F.leaky_relu(x, 0.2)
        if self.spread is not None:
            x = self.spread(x)
        return F.leaky_relu(self.sum(x).flatten(1), 0.2)

    def forward(
        self,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        t: Tensor | None = None,
        x_t: Tensor | None = None,
        joined: Tensor | None = None,
    ) -> Tensor:
        """Logits [B], or [B, *out_shape], of images [B, C, H, W], times [B], noisier images [B, C, H, W], vectors
        [B, joined] and labels [B].
        """
        check_told(labels, self.class_embedding is not None, "labels", "num_classes")
        features = self.features(x, t=t, x_t=x_t, joined=joined)
        logits = self.read_out(features).view(len(x), *self.out_shape)
        if labels is None or self.class_embedding is None:
            return logits
        embedded = self.class_embedding(labels)
        projected = (embedded * features).sum(1) / features.shape[1] ** 0.5
        return logits + projected.view(len(x), *[1] * len(self.out_shape))


class Spread(nn.Module):
    """Minibatch standard deviation: how much the rows of a group differ, as one more channel; it couples the group.

    The standard deviation over a group at each channel and position, averaged to one number that fills the channel for
    every row of the group. Groups are consecutive rows, so they are the same however a batch is cut into micro-batches
    and processes, as long as each part holds whole groups: no other process is asked. Source: Karras et al. 2018,
    "Progressive Growing of GANs" (arXiv 1710.10196), section 3, with the fixed groups of StyleGAN.

    Args:
        group: Rows of a group.

    Raises:
        ValueError: A group of fewer than 2 rows; in `forward`, a number of rows that is no multiple of it.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        if group < 2:
            raise ValueError(f"`spread={group}`: a group needs two rows; leave it out for none")
        self.group = group

    def check(self, rows: int) -> None:
        """Raises ValueError for `rows` that do not fill whole groups."""
        if rows % self.group:
            raise ValueError(f"`spread={self.group}` must divide the {rows} rows of a batch that are seen at once")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C + 1, H, W]."""
        self.check(len(x))
        groups = x.unflatten(0, (-1, self.group))
        deviation = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        channel = deviation.repeat_interleave(self.group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, channel], 1)


def check_told(value: Tensor | None, takes: bool, name: str, setting: str) -> None:
    """Raises ValueError if what a discriminator is conditioned on is missing, or if it got what it never looks at."""
    if takes and value is None:
        raise ValueError(f"`{setting}`: the ConvDiscriminator is conditioned on `{name}`, and none was given")
    if value is not None and not takes:
        raise ValueError(f"`{name}`: the ConvDiscriminator is not conditioned on it: set `{setting}`, or give none")
