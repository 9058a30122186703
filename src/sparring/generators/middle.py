"""The middle of a denoiser's network: what it has made of a noisy image half way, on a small map."""

from typing import Any

from torch import Tensor, nn

from sparring.generators.condition import Condition
from sparring.generators.denoiser import Denoiser
from sparring.networks.mlp import MLP


def middle_block(net: nn.Module) -> nn.Module:
    """A U-Net's `mid_block`, the transformer block halfway, or what comes before the last layer of an MLP.

    Raises:
        ValueError: a network without any of these.
    """
    if isinstance(net, MLP):
        return net.read_out[1]
    blocks: Any = getattr(net, "transformer_blocks", None)
    block = getattr(net, "mid_block", None) if blocks is None else blocks[len(blocks) // 2]
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
    return config["num_attention_heads"] * config["attention_head_dim"]


AFTER = ("up_blocks", "conv_norm_out", "conv_out", "norm_out", "proj_out", "proj_out_1", "proj_out_2")
"""What diffusers calls the parts of its networks that come after the middle."""


def freeze_after_middle(denoiser: Denoiser) -> Denoiser:
    """The denoiser, of whose network only what `middle_map` runs is trained from now on."""
    net: Any = denoiser.net
    middle_block(net)
    after = [net.get_submodule(name) for name in AFTER if isinstance(getattr(net, name, None), nn.Module)]
    blocks = getattr(net, "transformer_blocks", [])
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
    return as_map(output_of(middle_block(denoiser.net), denoiser, x_t, t, condition))


def output_of(block: nn.Module, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition = None) -> Any:
    """What a block of a denoiser's network gives for noisy images [B, c, h, w]; what comes after it is not run."""
    handle = block.register_forward_hook(_stop)
    try:
        denoiser.network(denoiser.process.model_input(x_t, t), denoiser.process.model_time(t), condition)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise ValueError(f"{type(denoiser.net).__name__} does not run its {type(block).__name__} for these images")


def as_map(output: Any) -> Tensor:
    """[B, D, g, g] of what a block gives: a map, tokens [B, N, D] (of two streams, the images'), or numbers [B, D]."""
    x: Tensor = output[-1] if isinstance(output, tuple) else output
    if x.ndim == 3:
        side = round(x.shape[1] ** 0.5)
        return x.transpose(1, 2).unflatten(2, (side, -1))
    return x[:, :, None, None] if x.ndim == 2 else x


class _Reached(Exception):  # noqa: N818
    """The block has been reached; the rest of the network need not run."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)
