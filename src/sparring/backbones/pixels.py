"""Features without a network: the pixels themselves, and the coordinates of points."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparring.backbones.backbone import Backbone


class Pixels(Backbone):
    """The pixels themselves, averaged over a coarse grid or flat: no labels and no weights.

    Args:
        pool: Side of the grid that the image is averaged to (4: C * 16 features), or None for all pixels as they are.

    Raises:
        ValueError: `pool` below 1.
    """

    def __init__(self, *, pool: int | None = 4) -> None:
        super().__init__()
        if pool is not None and pool < 1:
            raise ValueError(f"`pool={pool}`: expected the side of a grid, at least 1, or null for flat pixels")
        self.pool = pool
        self.name = "pixels" if pool is None else f"pixels pooled to {pool}x{pool}"
        self.resize = "none" if pool is None else f"mean over a {pool}x{pool} grid"

    def features(self, images: Tensor) -> Tensor:
        return (images if self.pool is None else F.adaptive_avg_pool2d(images, self.pool)).flatten(1)


class Points(Backbone):
    """The coordinates [B, d] of points [B, d, 1, 1]."""

    name = "points"

    def features(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (1, 1):
            raise ValueError(f"`features=points` takes points of one pixel, and got images {tuple(images.shape[1:])}")
        return images.flatten(1)
