"""The residual block that the convolutional generator and discriminator share, after R3GAN (arXiv 2501.05441)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SMALLEST_HALVED = 8  # pixels a side
PER_RESOLUTION = 2  # residual blocks


class Residual(nn.Module):
    """x + f(x) without normalisation, f a bottleneck: 1x1, LeakyReLU 0.2, 3x3 (grouped), LeakyReLU 0.2, 1x1.

    The last convolution starts at 0, so the block starts as the identity; the weights of the others start at the scale
    of He et al. times `depth^(-1/4)`, with which the network's output moves at a pace that does not depend on its depth
    (Zhang et al. 2019, "Fixup Initialization", for a branch of three layers). R3GAN's block is twice as wide inside and
    has more groups, which on CPUs costs more than it gives.

    Args:
        width: Channels.
        groups: Of the 3x3 convolution; they divide the width.
        depth: Residual blocks of the network.
        condition: Numbers of an embedding that is added to the channels inside; 0: no embedding.
    """

    def __init__(self, width: int, groups: int, depth: int, condition: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 1)
        self.middle = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(width, width, 1, bias=False)
        self.condition = nn.Linear(condition, width) if condition else None
        for layer in (self.first, self.middle):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            layer.weight.data *= depth**-0.25
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[B, width, H, W] to the same, and the embedding [B, condition] for a block that takes one."""
        hidden = self.first(x)
        if self.condition is not None:
            hidden = hidden + self.condition(condition)[:, :, None, None]
        hidden = self.middle(F.leaky_relu(hidden, 0.2))
        return x + self.last(F.leaky_relu(hidden, 0.2))


def resolutions(size: int | Sequence[int]) -> list[tuple[int, int]]:
    """Heights and widths from the smallest map of a network to its images: 4, 8, 16; or 7, 14, 28.

    Sides are halved while both are even and at least 8.

    Raises:
        ValueError: A size that is no positive number, or two of them.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"`size={size}` must be a number of pixels, or height and width")
    found = [sides]
    while min(found[0]) >= SMALLEST_HALVED and all(side % 2 == 0 for side in found[0]):
        found.insert(0, (found[0][0] // 2, found[0][1] // 2))
    return found


def widths_for(size: int | Sequence[int], widths: Sequence[int] | None, groups: int) -> list[int]:
    """Channels at each of `resolutions`: the given ones, or 64, 32 and then 16.

    Raises:
        ValueError: As many widths as there are not resolutions; groups that do not divide them.
    """
    sizes = resolutions(size)
    chosen = list(widths) if widths is not None else [max(16, 64 >> number) for number in range(len(sizes))]
    if len(chosen) != len(sizes):
        raise ValueError(f"`size={size}`, `widths={chosen}`: {len(sizes)} widths, one for each of the sizes {sizes}")
    if groups < 1 or min(chosen) < 1 or any(width % groups for width in chosen):
        raise ValueError(f"`groups={groups}` must divide each of `widths={chosen}`")
    return chosen
