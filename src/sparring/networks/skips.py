"""Blocks of a stock network that can be left out, because they give back the shape that they take."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


def skippable(net: nn.Module) -> dict[str, Any]:
    """Residual blocks of equal channels, self-attention with its residual, and transformer blocks, by their names.

    Nothing inside of one of them is named again.
    """
    found: dict[str, Any] = {}
    for name, part in net.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        residual = isinstance(part, ResnetBlock2D) and part.in_channels == part.out_channels
        residual = residual and part.upsample is None and part.downsample is None
        if (
            residual
            or isinstance(part, BasicTransformerBlock)
            or (isinstance(part, Attention) and part.residual_connection)
        ):
            found[name] = part
    return found


@contextmanager
def without(blocks: Iterable[Any]) -> Iterator[None]:
    """Within it these blocks give back what they are given; may be nested."""
    before: list[tuple[Any, Any]] = []
    try:
        for block in blocks:
            before.append((block, vars(block).get("forward")))
            block.forward = passed
        yield
    finally:
        for block, forward in reversed(before):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def passed(hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
    """A block that is not there."""
    return hidden_states
