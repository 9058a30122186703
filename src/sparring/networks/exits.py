"""Diffusion transformers that are left early: how many blocks each noise level needs, and passes of so many blocks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from sparring.networks.skips import without

SHARES = (1.0, 1.0, 0.857, 0.857, 0.714, 0.714, 0.571, 0.571, 0.428, 0.428)
"""Share of the blocks in tenths of the time, from clean images to noise: 28, 28, 24, 24 … 12, 12 of 28."""


class Exits:
    """The blocks that each time needs.

    Source: adaptive score estimation (arXiv 2408.05927), official code.

    Args:
        net: a DiT.
        shares: of the blocks, in (0, 1], over equal parts of the time from 0, the clean images, to 1, noise; rounded up
            to whole blocks.

    Raises:
        ValueError: another network; no shares, or a share outside (0, 1].
    """

    def __init__(self, net: nn.Module, shares: Sequence[float] = SHARES) -> None:
        if not isinstance(net, DiTTransformer2DModel):
            raise ValueError(f"a DiT is left early, and this is a {type(net).__name__}: take --on digits-dit")
        if not shares or min(shares) <= 0 or max(shares) > 1:
            raise ValueError(f"`shares={list(shares)}` must be one or more numbers in (0, 1]")
        self.net: Any = net
        blocks: Any = net.transformer_blocks
        self.total = len(blocks)
        self.blocks = [math.ceil(share * self.total - 1e-9) for share in shares]

    def at(self, t: Tensor) -> Tensor:
        """How many blocks times t in [0, 1] of any shape need; a border belongs to the cleaner part.

        So step 99 of 1000, at t = 0.1, is one of the first tenth, as in the official code.
        """
        part = (t * len(self.blocks) - 1e-5).long().clamp(0, len(self.blocks) - 1)
        return torch.tensor(self.blocks, device=t.device)[part]

    @contextmanager
    def after(self, blocks: int) -> Iterator[None]:
        """Within it all rows leave after so many blocks, and the others do not run."""
        with without(self.net.transformer_blocks[blocks:]):
            yield

    @contextmanager
    def after_each(self, blocks: Tensor) -> Iterator[None]:
        """Within it each row of a batch leaves after its own number of blocks [B]; all of them run.

        Raises:
            ValueError: gradient checkpointing, which would compute blocks again outside.
        """
        if self.net.gradient_checkpointing:
            raise ValueError("`gradient_checkpointing`: blocks that are left cannot be computed again; leave it out")

        def keep(number: int) -> Any:
            def hook(block: nn.Module, given: Any, output: Tensor) -> Tensor:
                return torch.where(blocks[:, None, None] > number, output, given[0])

            return hook

        with ExitStack() as stack:
            for number, block in enumerate(self.net.transformer_blocks):
                stack.callback(block.register_forward_hook(keep(number)).remove)
            yield
