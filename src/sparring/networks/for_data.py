"""Networks that suit a data set, by the size, channels and classes of its images: of a denoiser, and of a GAN."""

from importlib import import_module
from typing import Any

from torch import nn

LARGEST = 64  # pixels a side; beyond, a small network from scratch is no good start
WIDTHS = {8: (16, 32), 16: (32, 64, 64), 32: (32, 64, 96), 64: (32, 64, 96, 128)}


def network_settings(image_shape: tuple[int, int, int], num_classes: int | None = None) -> dict[str, Any]:
    """Class and settings of a network for images (C, H, W), as a recipe writes them; sizes are our choice.

    Points (C, 1, 1) have an `MLP`, and images of 4 to 64 pixels a side a UNet2DModel without attention, of 0.1 to 4
    million parameters. With classes it has one embedding more, for "none", which guidance needs. The classes of points
    are their modes, which the network has to find by itself, so an MLP does not get them.

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


LATENTS = 64  # numbers in z for images, as in R3GAN; for points as many as they have coordinates


def gan_settings(image_shape: tuple[int, int, int], num_classes: int | None = None) -> dict[str, Any]:
    """A latent generator of images (C, H, W) and discriminators trained from scratch, as a recipe writes them.

    Points have perceptrons of 34 thousand parameters each, and images of 4 to 64 pixels a side residual networks of 0.1
    to 0.2 million. With classes both are conditioned on these, but for points (see `network_settings`).

    Returns:
        "latent_generator", "plain_discriminator" and, for steps of a noisy chain, "step_discriminator", each with its
        class and settings; "num_classes", and of images "channels" and "size".

    Raises:
        ValueError: images of another size.
    """
    channels, height, width = image_shape
    size: int | list[int] = height if height == width else [height, width]
    if (height, width) == (1, 1):
        latents, classes = channels, None
        generator = {"in_features": channels, "out_shape": list(image_shape)}
        discriminator: dict[str, Any] = {"in_features": channels}
        of_steps = {"in_channels": channels}
        names = "Perceptron", "Perceptron", "StepPerceptron"
    elif 4 <= min(height, width) <= max(height, width) <= LARGEST:
        latents, classes = LATENTS, num_classes
        generator = {"latent_dim": LATENTS, "out_channels": channels, "size": size, "num_classes": classes}
        discriminator = {"in_channels": channels, "size": size, "num_classes": classes}
        of_steps = discriminator | {"time": True, "neighbour": True}
        names = "ConvGenerator", "ConvDiscriminator", "ConvDiscriminator"
    else:
        raise ValueError(
            f"no networks of a GAN are chosen for images of {width}x{height} pixels, only for 4 to {LARGEST} a side: "
            "make them smaller with --data.size 32"
        )
    nets = [
        {"class_path": f"sparring.networks.{name}", "init_args": settings}
        for name, settings in zip(names, (generator, discriminator, of_steps), strict=True)
    ]
    given = [] if classes is None else ["labels"]
    plain = "sparring.discriminators.PlainDiscriminator"
    return {
        "latent_generator": {
            "class_path": "sparring.generators.LatentGenerator",
            "init_args": {"latent_dim": latents, "num_classes": classes, "net": nets[0]},
        },
        "plain_discriminator": {"class_path": plain, "init_args": {"net": nets[1], "given": given}},
        "step_discriminator": {"class_path": plain, "init_args": {"net": nets[2], "given": [*given, "t", "x_t"]}},
        "num_classes": classes,
        **({} if (height, width) == (1, 1) else {"channels": channels, "size": size}),
    }


def network_for(image_shape: tuple[int, int, int], num_classes: int | None = None) -> nn.Module:
    """The network of `network_settings`, built."""
    return built(network_settings(image_shape, num_classes))


def built(settings: dict[str, Any]) -> nn.Module:
    """What a class and its settings, as a recipe writes them, make."""
    module, _, name = settings["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**settings["init_args"])


def network_in_words(net: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None) -> str:
    """A network in one line: class, size, parameters, classes of the data that it takes.

    Args:
        net: built.
        image_shape: (C, H, W) of the images.
        num_classes: that it is conditioned on; None: none.
    """
    channels, height, width = image_shape
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    size = f"{channels}-D points" if (height, width) == (1, 1) else f"{width}x{height}x{channels}"
    number = f"{millions:.1f} M" if millions >= 1 else f"{millions * 1000:.0f} k"
    classes = "no classes" if num_classes is None else f"{num_classes} classes"
    return f"{type(net).__name__} {size}, {number} parameters, {classes}"
