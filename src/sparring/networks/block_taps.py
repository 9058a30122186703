"""The features of every block of a U-Net in one map: what is read off a denoiser beside its output."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import interpolate


class BlockTaps:
    """Keeps what each block gives, with gradient.

    Args:
        net: a UNet2DModel.

    Attributes:
        channels: of all features together.

    Raises:
        ValueError: another network.
    """

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, UNet2DModel):
            raise ValueError(f"features are read off the blocks of a UNet2DModel, and this is a {type(net).__name__}")
        parts: Any = net
        middle = [] if parts.mid_block is None else [parts.mid_block]
        self.blocks: list[nn.Module] = [*parts.down_blocks, *middle, *parts.up_blocks]
        widths: list[int] = list(parts.config["block_out_channels"])
        self.channels = sum(widths) * 2 + (widths[-1] if middle else 0)

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """A list to which each block appends its features [B, C, h, w] when the network runs."""
        kept: list[Tensor] = []

        def keep(block: nn.Module, given: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as stack:
            for block in self.blocks:
                stack.callback(block.register_forward_hook(keep).remove)
            yield kept


def in_one_map(features: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Features of several sizes, each enlarged or reduced to `size` (bilinear), as [B, sum of C, H, W]."""
    return torch.cat([interpolate(one, size=size, mode="bilinear", align_corners=False) for one in features], dim=1)
