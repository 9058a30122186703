"""The blocks of diffusers' transformers: in which lists they are, and how wide the tokens are that they pass on."""

from typing import Any

from torch import Tensor, nn

TRUNK = ("transformer_blocks", "single_transformer_blocks", "layers", "blocks")
"""What diffusers calls the lists of blocks that an image's tokens go through, in this order."""


def trunk(net: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer of diffusers, in the order of its calls; none of another network."""
    if not type(net).__module__.startswith("diffusers."):
        return []
    lists = [getattr(net, name, None) for name in TRUNK]
    return [block for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]


def token_width(net: nn.Module) -> int:
    """Numbers in a token of a transformer of diffusers."""
    config: Any = net.config
    if "attention_head_dim" in config:
        return config["num_attention_heads"] * config["attention_head_dim"]
    return config["hidden_size"] if "hidden_size" in config else config["dim"]


def of_images(output: Any) -> Tensor:
    """What a block gives of the images: all of it, or the last of what it gives (of two streams, U-Net blocks' skips).

    Blocks of one sequence of images and captions give both.
    """
    if not isinstance(output, tuple):
        return output
    return output[-1] if isinstance(output[-1], Tensor) else output[0]
