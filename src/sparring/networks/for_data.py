"""The denoising network that suits a data set, by the size, channels and classes of its images."""

from importlib import import_module
from typing import Any

from torch import nn

LARGEST = 64  # pixels a side; beyond, a small network from scratch is no good start
WIDTHS = {8: (16, 32), 16: (32, 64, 64), 32: (32, 64, 96), 64: (32, 64, 96, 128)}


def network_settings(image_shape: tuple[int, int, int], num_classes: int | None = None) -> dict[str, Any]:
    """Class and settings of a network for images (C, H, W), as a recipe writes them; sizes are our choice.

    Points (C, 1, 1) have an `MLP`, and images of 4 to 64 pixels a side a UNet2DModel without attention, of 0.1 to 4
    million parameters. With classes it has one embedding more, for "none", which guidance needs. The classes of points
    are their modes, which the network has to find by itself, so an MLP is not told them.

    Raises:
        ValueError: images of another size, or of a size that cannot be halved.
    """
    channels, height, width = image_shape
    if (height, width) == (1, 1):
        return {"class_path": "sparring.networks.MLP", "init_args": {"in_channels": channels}}
    if not 4 <= min(height, width) <= max(height, width) <= LARGEST:
        raise ValueError(
            f"no network is chosen for images of {width}x{height} pixels, only for 4 to {LARGEST} a side: make them "
            "smaller with --data.size 32, start from a pipeline with --init, or name a network with --denoiser.net"
        )
    widths = WIDTHS[min(size for size in WIDTHS if size >= max(height, width))]
    levels = next(n for n in range(len(widths), 0, -1) if height % 2 ** (n - 1) == width % 2 ** (n - 1) == 0)
    if levels == 1:
        raise ValueError(
            f"no network is chosen for images of {width}x{height} pixels, only for sides that can be halved: set "
            f"--data.size {max(height, width) // 4 * 4} or --data.pad 1, or name a network with --denoiser.net"
        )
    widths = widths[:levels]
    settings = {
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 1,
        "block_out_channels": list(widths),
        "norm_num_groups": 8,
        "down_block_types": ["DownBlock2D"] * levels,
        "up_block_types": ["UpBlock2D"] * levels,
        "add_attention": False,
    }
    if num_classes is not None:
        settings["num_class_embeds"] = num_classes + 1
    return {"class_path": "diffusers.UNet2DModel", "init_args": settings}


def network_for(image_shape: tuple[int, int, int], num_classes: int | None = None) -> nn.Module:
    """The network of `network_settings`, built."""
    settings = network_settings(image_shape, num_classes)
    module, _, name = settings["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**settings["init_args"])


def network_in_words(net: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None) -> str:
    """A network in one line: class, size, parameters, classes of the data that it takes.

    Args:
        net: built.
        image_shape: (C, H, W) of the images.
        num_classes: of the data, if the network is conditioned on them.
    """
    channels, height, width = image_shape
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    size = f"{channels}-D points" if (height, width) == (1, 1) else f"{width}x{height}x{channels}"
    number = f"{millions:.1f} M" if millions >= 1 else f"{millions * 1000:.0f} k"
    classes = "no classes" if num_classes is None else f"{num_classes} classes + none"
    return f"{type(net).__name__} {size}, {number} parameters, {classes}"
