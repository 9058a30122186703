"""A small U-Net with blocks of choice: residual, or continuous (a differential equation); positions at every scale."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Padding = Literal["zeros", "circular"]


def runge_kutta(
    slope: Callable[[Tensor, Tensor], Tensor], h: Tensor, w: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """h and its velocity w at time 1 under `h'' = slope(h, h')`, from time 0, by the classical method of order four."""
    ds = 1 / num_steps
    for _ in range(num_steps):
        h_1, w_1 = w, slope(h, w)
        h_2, w_2 = w + ds / 2 * w_1, slope(h + ds / 2 * h_1, w + ds / 2 * w_1)
        h_3, w_3 = w + ds / 2 * w_2, slope(h + ds / 2 * h_2, w + ds / 2 * w_2)
        h_4, w_4 = w + ds * w_3, slope(h + ds * h_3, w + ds * w_3)
        h = h + ds / 6 * (h_1 + 2 * h_2 + 2 * h_3 + h_4)
        w = w + ds / 6 * (w_1 + 2 * w_2 + 2 * w_3 + w_4)
    return h, w


class ResidualBlock(nn.Module):
    """`h + f(h)`, f twice norm, SiLU and convolution, the embedding of the time between.

    Args:
        width: Channels.
        embedded: Numbers of the embedding.
        groups: Of the norms.
        padding: What convolutions see beyond the edge, "zeros" or "circular".
    """

    def __init__(self, width: int, embedded: int, groups: int, padding: Padding, inputs: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, inputs * width)
        self.first = nn.Conv2d(inputs * width, width, 3, padding=1, padding_mode=padding)
        self.told = nn.Linear(embedded, width)
        self.second = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1, padding_mode=padding)
        )

    def change(self, h: Tensor, embedding: Tensor) -> Tensor:
        """f(h) [B, width, H, W]."""
        return self.second(self.first(F.silu(self.norm(h))) + self.told(embedding)[:, :, None, None])

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """[B, width, H, W] to the same; embedding [B, embedded]."""
        return h + self.change(h, embedding)


class ContinuousBlock(ResidualBlock):
    """h at time 1 of `h'' = f(h, h', t)`, `h'(0)` a 1x1 convolution of h(0): a residual block without end.

    Source: "The Missing U for Efficient Diffusion Models" (arXiv 2310.20092), second-order neural-ODE blocks; the
    equation's form and the solver are ours.

    Args:
        width: Channels.
        embedded: Numbers of the embedding.
        groups: Of the norms.
        padding: What convolutions see beyond the edge, "zeros" or "circular".
        num_steps: Of the solver, each with four calls of f.
    """

    def __init__(self, width: int, embedded: int, groups: int, padding: Padding, num_steps: int = 4) -> None:
        super().__init__(width, embedded, groups, padding, inputs=2)
        self.velocity = nn.Conv2d(width, width, 1)
        self.num_steps = num_steps

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """[B, width, H, W] to the same; embedding [B, embedded]."""
        slope = lambda h, w: self.change(torch.cat([h, w], dim=1), embedding)  # noqa: E731
        return runge_kutta(slope, h, self.velocity(h), self.num_steps)[0]


def positions(channels: int, height: int, width: int, scale: float, offset: tuple[float, float]) -> Tensor:
    """Sines and cosines [channels, height, width] of the places of a map, half of the channels for each axis.

    Source: Choi et al. 2021, "Toward Spatially Unbiased Generative Models" (arXiv 2108.01285).

    Args:
        channels: A multiple of 4.
        height: Of the map.
        width: Of the map.
        scale: Pixels of the image per place, so that one place of the image has one code at every scale.
        offset: By which the places are shifted, in pixels down and to the right.
    """
    frequencies = 10000 ** (-torch.arange(0, channels // 2, 2) / (channels // 2))
    found = []
    for axis, length in enumerate((height, width)):
        places = (torch.arange(length) + 0.5) * scale - 0.5 - offset[axis]
        angles = frequencies[:, None] * places
        codes = torch.cat([angles.sin(), angles.cos()])
        found.append((codes[:, :, None] if axis == 0 else codes[:, None]).expand(-1, height, width))
    return torch.cat(found)


class BlockUNet(ModelMixin, ConfigMixin):
    """`net(x, time)` or `net(x, time, class_labels)`, for images: on either way one block a resolution.

    Args:
        sample_size: Width and height of the images.
        in_channels: Channels of the images.
        widths: Channels of each resolution; the image is halved between them.
        block: "residual" or "continuous".
        num_steps: Of the solver of continuous blocks.
        positional: Codes of the places, times a learned number that starts at 1, are added before the blocks of either
            way ("every"), to the first map ("input"), or not ("none").
        padding: What convolutions see beyond the edge: "zeros", which tells them where it is, or "circular".
        norm_num_groups: Groups of the normalisations; they divide the widths.
        num_class_embeds: Classes; with guidance, the last one means "none". None: no classes.

    Raises:
        ValueError: A setting that is unknown or out of range; labels without classes, or the reverse.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32),
        block: Literal["residual", "continuous"] = "residual",
        num_steps: int = 4,
        positional: Literal["none", "input", "every"] = "none",
        padding: Padding = "zeros",
        norm_num_groups: int = 8,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        if min(widths, default=0) < 1 or num_steps < 1 or sample_size % 2 ** (len(widths) - 1):
            raise ValueError(
                f"`widths={list(widths)}`, `num_steps={num_steps}`, `sample_size={sample_size}`: the side must be a "
                f"multiple of {2 ** (len(widths) - 1)}, and there must be a step"
            )
        if block not in ("residual", "continuous") or positional not in ("none", "input", "every"):
            raise ValueError(
                f"`block={block}` is residual or continuous, `positional={positional}` none, input or every"
            )
        if any(width % 4 for width in widths):
            raise ValueError(f"`widths={list(widths)}` must be multiples of 4")
        self.offset = (0.0, 0.0)
        embedded = 4 * widths[0]
        self.time_steps = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(widths[0], embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, embedded)
        convolution = lambda a, b, size: nn.Conv2d(a, b, size, padding=size // 2, padding_mode=padding)  # noqa: E731

        def made(width: int) -> nn.Module:
            if block == "residual":
                return ResidualBlock(width, embedded, norm_num_groups, padding)
            return ContinuousBlock(width, embedded, norm_num_groups, padding, num_steps)

        self.read_in = convolution(in_channels, widths[0], 3)
        self.down, self.up = nn.ModuleList(map(made, widths)), nn.ModuleList(map(made, widths))
        self.middle = made(widths[-1])
        pairs = list(zip(widths, widths[1:], strict=False))
        self.widen = nn.ModuleList(convolution(a, b, 1) for a, b in pairs)
        self.narrow = nn.ModuleList(convolution(b, a, 1) for a, b in pairs)
        self.join = nn.ModuleList(convolution(2 * width, width, 1) for width in widths)
        used = {"none": 0, "input": 1, "every": 2 * len(widths)}[positional]
        self.gamma = nn.Parameter(torch.ones(used)) if used else None
        self.read_out = nn.Sequential(
            nn.GroupNorm(norm_num_groups, widths[0]), nn.SiLU(), convolution(widths[0], in_channels, 3)
        )

    def placed(self, h: Tensor, number: int, level: int) -> Tensor:
        """The map with its positions, times gamma, if there is a gamma of that number."""
        if self.gamma is None or number >= len(self.gamma):
            return h
        codes = positions(h.shape[1], h.shape[2], h.shape[3], scale=2.0**level, offset=self.offset)
        return h + self.gamma[number] * codes.to(h)

    @contextmanager
    def shifted(self, down: float, right: float) -> Iterator[None]:
        """The places are moved by so many pixels meanwhile, and with them what the network draws there."""
        self.offset = (down, right)
        try:
            yield
        finally:
            self.offset = (0.0, 0.0)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for images [B, C, H, W] at times (a number or [B]); labels [B] for a network with classes."""
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels and `num_class_embeds` of the BlockUNet belong together: give both or none")
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time_steps(times).to(sample.dtype))
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels)
        embedding = F.silu(embedding)
        h, skips, levels = self.read_in(sample), [], len(self.down)
        for level, block in enumerate(self.down):
            h = block(self.placed(h, level, level), embedding)
            skips.append(h)
            if level + 1 < levels:
                h = self.widen[level](F.avg_pool2d(h, 2))
        h = self.middle(h, embedding)
        for level in reversed(range(levels)):
            h = self.join[level](torch.cat([h, skips[level]], dim=1))
            h = self.up[level](self.placed(h, levels + level, level), embedding)
            if level:
                h = self.narrow[level - 1](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        output = self.read_out(h)
        return UNet2DOutput(sample=output) if return_dict else (output,)
