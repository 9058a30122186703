"""The middle of a denoiser's network: what it has made of a noisy image half way, on a small map."""

from typing import Any

from torch import Tensor, nn

from sparring.generators.condition import Condition
from sparring.generators.denoiser import Denoiser
from sparring.networks.mlp import MLP
from sparring.networks.trunk import of_images, token_width, trunk


def middle_block(net: nn.Module) -> nn.Module:
    """A U-Net's `mid_block`, the block halfway of a transformer, or what comes before the last layer of an MLP.

    Raises:
        ValueError: a network without any of these.
    """
    if isinstance(net, MLP):
        return net.read_out[1]
    blocks: Any = trunk(net)
    block = blocks[len(blocks) // 2] if blocks else getattr(net, "mid_block", None)
    if block is None:
        raise ValueError(f"{type(net).__name__} has neither a middle block nor transformer blocks")
    return block


def middle_channels(net: nn.Module) -> int:
    """Channels D of the map of `middle_map`."""
    middle_block(net)
    config: Any = net.config
    if isinstance(net, MLP):
        return config["width"]
    if "block_out_channels" in config:
        return config["block_out_channels"][-1]
    return token_width(net)


AFTER = ("up_blocks", "conv_norm_out", "conv_out", "norm_out", "proj_out", "proj_out_1", "proj_out_2", "final_layer")
"""What diffusers calls the parts of its networks that come after the middle."""


def freeze_after_middle(denoiser: Denoiser) -> Denoiser:
    """The denoiser, of whose network only what `middle_map` runs is trained from now on."""
    net: Any = denoiser.net
    middle_block(net)
    after = [net.get_submodule(name) for name in AFTER if isinstance(getattr(net, name, None), nn.Module)]
    blocks = trunk(net)
    after += blocks[len(blocks) // 2 + 1 :]
    if isinstance(net, MLP):
        after.append(net.read_out[2])
    for part in after:
        part.requires_grad_(False)
    return denoiser


def middle_map(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
    """The map [B, D, g, g] in the middle of the network, for images [B, c, h, w] at times t [B].

    Tokens are put in their places; of points, g is 1.
    """
    return as_map(output_of(middle_block(denoiser.net), denoiser, x_t, t, condition), denoiser, x_t)


def output_of(block: nn.Module, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
    """What a block of a denoiser's network gives for noisy images [B, c, h, w]; what comes after it is not run.

    Of blocks of two streams, images and captions, it is what they give of the images.
    """
    handle = block.register_forward_hook(_stop)
    try:
        denoiser.network(denoiser.process.model_input(x_t, t), denoiser.process.model_time(t), condition)
    except _Reached as reached:
        return of_images(reached.output)
    finally:
        handle.remove()
    raise ValueError(f"{type(denoiser.net).__name__} does not run its {type(block).__name__} for these images")


def as_map(x: Tensor, denoiser: Denoiser, images: Tensor) -> Tensor:
    """[B, D, g, g'] of what a block gives for images [B, c, h, w]: a map, tokens [B, N, D], or numbers [B, D].

    Tokens of captions in one sequence with those of the images are left out.
    """
    if x.ndim == 3:
        places, (height, width) = x.shape[1], images.shape[2:]
        if denoiser.text is not None:
            places = height * width // denoiser.text.patch**2
            x = x[:, :places] if denoiser.text.images_first else x[:, -places:]
        return x.transpose(1, 2).unflatten(2, (round((places * height / width) ** 0.5), -1))
    return x[:, :, None, None] if x.ndim == 2 else x


class _Reached(Exception):  # noqa: N818
    """The block has been reached; the rest of the network need not run."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)
