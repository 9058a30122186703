"""A small network whose maps are added in the decoder of a U-Net, from outside: a guide that is plugged in."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d


class DecoderGuide(ModelMixin, ConfigMixin):
    """From noisy images, times, classes and scales w to all maps of a decoder: `net(x, time, labels, scale)`.

    Two residual blocks see the images at their own size; a convolution of 1x1 for each block of the decoder makes its
    map, which is multiplied by w - 1 and starts at zero. So w = 1, and a new guide, leave the base as it is.

    Args:
        in_channels: Of the images.
        block_out_channels: Of the U-Net.
        num_classes: Of the U-Net, with the one that says "none".
        width: Channels of the blocks.
        groups: Of the normalisation; they divide the width.

    Raises:
        ValueError: A size below 1, or a width that is no multiple of the groups.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        block_out_channels: Sequence[int] = (16, 32),
        num_classes: int = 11,
        width: int = 16,
        groups: int = 4,
    ) -> None:
        super().__init__()
        if min(in_channels, num_classes, width, groups, *block_out_channels) < 1 or width % groups:
            raise ValueError(f"`width={width}`, `groups={groups}`: sizes are at least 1, and the groups divide width")
        embedded = 4 * width
        self.time_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.class_embedding = nn.Embedding(num_classes, embedded)
        self.scale_embedding = nn.Linear(1, embedded)
        self.read_in = nn.Conv2d(in_channels, width, 3, padding=1)
        sizes = dict(in_channels=width, out_channels=width, temb_channels=embedded, groups=groups)
        self.layers = nn.ModuleList(ResnetBlock2D(**sizes) for _ in range(2))  # type: ignore[arg-type]
        self.maps = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in reversed(block_out_channels))
        for layer in self.maps:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """The maps [B, numbers], one behind the other, of [B, C, H, W], times [B], classes [B] and scales w [B].

        Without them, those of class 0 at w = 1, which are zero.
        """
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device) if labels is None else labels
        more = (torch.zeros(len(x), 1, device=x.device) if scale is None else scale[:, None] - 1).to(x)
        embedded = self.time_embedding(self.time_steps(time).to(x.dtype))
        embedded = embedded + self.class_embedding(labels) + self.scale_embedding(more)
        x = self.read_in(x)
        for layer in self.layers:
            x = layer(x, embedded)
        made = []
        for number, layer in enumerate(self.maps):
            smaller = 2 ** max(len(self.maps) - 2 - number, 0)  # all blocks but the last end with twice the size
            made.append(layer(avg_pool2d(x, smaller)).flatten(1))
        return more * torch.cat(made, 1)


class DecoderMaps:
    """Adds maps to what the blocks of a U-Net's decoder give.

    Args:
        net: a UNet2DModel.

    Raises:
        ValueError: another network.
    """

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, UNet2DModel):
            raise ValueError(
                f"maps are added in the decoder of a UNet2DModel without captions, and this is a {type(net).__name__}"
            )
        parts: Any = net
        self.blocks: list[nn.Module] = [*parts.up_blocks]
        self.widths: list[int] = list(parts.config["block_out_channels"])
        self.classes: int | None = parts.config["num_class_embeds"]

    def check(self, guide: nn.Module) -> None:
        """Raises ValueError for a guide of another decoder."""
        config: Any = getattr(guide, "config", {})
        widths = list(config.get("block_out_channels", []))
        if not isinstance(guide, DecoderGuide) or widths != self.widths:
            raise ValueError(
                f"the guide is a {type(guide).__name__} with `block_out_channels={widths}`, and the U-Net has "
                f"{self.widths}: set `--generator.net.block_out_channels`"
            )
        if self.classes is not None and config["num_classes"] != self.classes:
            raise ValueError(
                f"the guide has `num_classes={config['num_classes']}`, and the U-Net {self.classes}: set "
                "`--generator.net.num_classes`"
            )

    @contextmanager
    def added(self, maps: Tensor) -> Iterator[None]:
        """The network gives what it gives with `maps` [B, numbers], one block's behind the other's."""
        rest = [maps]

        def add(block: nn.Module, given: Any, output: Tensor) -> Tensor:
            size = output[0].numel()
            mine, rest[0] = rest[0][:, :size], rest[0][:, size:]
            return output + mine.view_as(output).to(output)

        with ExitStack() as stack:
            for block in self.blocks:
                stack.callback(block.register_forward_hook(add).remove)
            yield
