"""The U-Net of residual blocks that networks with one more input or output are built around."""

from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DModel


def plain_unet(
    sample_size: int | Sequence[int],
    in_channels: int,
    out_channels: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    norm_num_groups: int,
    class_embed_type: str | None = None,
) -> Any:
    """A UNet2DModel without attention; its own documentation has the arguments."""
    return UNet2DModel(
        sample_size=sample_size if isinstance(sample_size, int) else tuple(sample_size),
        in_channels=in_channels,
        out_channels=out_channels,
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        norm_num_groups=norm_num_groups,
        down_block_types=("DownBlock2D",) * len(block_out_channels),
        up_block_types=("UpBlock2D",) * len(block_out_channels),
        add_attention=False,
        class_embed_type=class_embed_type,
    )
