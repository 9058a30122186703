"""What blocks of a stock network compute, seen and changed from outside: taps, and tokens that pass blocks by.

Both are attached by bound methods, so that a copy of the network has a copy of them, and do nothing outside of their
`with` block. The network stays the class that it is, with its own weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from sparring.networks.code_unet import CodeUNet
from sparring.networks.trunk import of_images, token_width, trunk


class Tap:
    """Keeps the features of one block, with gradient: of a U-Net its middle, of a transformer block number `depth`.

    Args:
        net: the network.
        depth: blocks of a transformer up to the tap; None: 0.4 of them. A U-Net has none.

    Attributes:
        channels: of the features.

    Raises:
        ValueError: another network, or no such block.
    """

    def __init__(self, net: Any, depth: int | None = None) -> None:
        net = net.net if isinstance(net, CodeUNet) else net
        if isinstance(net, (UNet2DModel, UNet2DConditionModel)):
            if depth is not None:
                raise ValueError(f"`depth={depth}`: a {type(net).__name__} is tapped in its middle; leave it out")
            inside: Any = net
            block, self.channels = inside.mid_block, inside.config["block_out_channels"][-1]
        elif blocks := trunk(net):
            depth = max(1, round(0.4 * len(blocks))) if depth is None else depth
            if not 1 <= depth <= len(blocks):
                raise ValueError(f"`depth={depth}` must lie in 1 to {len(blocks)}, the blocks of the network")
            block, self.channels = blocks[depth - 1], token_width(net)
        else:
            raise ValueError(f"the blocks of a {type(net).__name__} are not known: take a U-Net or a transformer")
        self.open = False
        self.kept: list[Tensor] = []
        block.register_forward_hook(self.keep)

    def keep(self, block: nn.Module, given: Any, output: Any) -> None:
        """The hook."""
        if self.open:
            self.kept.append(of_images(output))

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """A list to which every pass of the network appends its features, [B, C, h, w] or [B, tokens, C]."""
        self.open, kept = True, self.kept
        try:
            yield kept
        finally:
            self.open, self.kept = False, []


class TokenRoute:
    """Lets some tokens of a DiT pass blocks `first` to `last` by: they come back with the value that they had before.

    Source: TREAD (arXiv 2501.04765).

    Args:
        net: the network.
        first: number of the first block, from 0.
        last: number of the last; negative ones count from the end.

    Raises:
        ValueError: no DiT, or no such blocks.
    """

    def __init__(self, net: nn.Module, first: int, last: int) -> None:
        if not isinstance(net, DiTTransformer2DModel):
            raise ValueError(f"tokens are routed in a DiT, and this is a {type(net).__name__}: take --on digits-dit")
        blocks: Any = net.transformer_blocks
        end = last + len(blocks) if last < 0 else last
        if not 0 <= first <= end < len(blocks):
            raise ValueError(f"`first={first}`, `last={last}`: the network has blocks 0 to {len(blocks) - 1}")
        self.ids: Tensor | None = None
        self.before: Tensor | None = None
        blocks[first].register_forward_pre_hook(self.leave, with_kwargs=True)
        blocks[end].register_forward_hook(self.come_back)

    def leave(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The hook before the first block."""
        if self.ids is None:
            return None
        self.before = tokens = given[0]
        return (tokens.gather(1, self.ids[:, :, None].expand(-1, -1, tokens.shape[2])), *given[1:]), named

    def come_back(self, block: nn.Module, given: Any, output: Tensor) -> Tensor | None:
        """The hook behind the last block."""
        if self.ids is None or self.before is None:
            return None
        ids = self.ids[:, :, None].expand(-1, -1, output.shape[2])
        return self.before.to(output.dtype).scatter(1, ids, output)

    @contextmanager
    def only(self, ids: Tensor | None) -> Iterator[None]:
        """Only tokens `ids` [B, k] go through the blocks; None: all do."""
        self.ids = ids
        try:
            yield
        finally:
            self.ids = self.before = None
