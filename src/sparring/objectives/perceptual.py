"""Distances between images by what a frozen network sees in them."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from sparring.networks.precision import at_least_float32


def feature_distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of unit feature vectors, summed over the maps: a scalar in [0, 4 maps].

    Args:
        one: maps [B, D_l, H_l, W_l] of some images, shallow to deep; a vector at each position is set to length 1.
        other: those of other images, row by row.

    Source: LPIPS (arXiv 1801.03924), without its learned weights of the channels.
    """
    distances = [
        (normalize(at_least_float32(a), dim=1) - normalize(at_least_float32(b), dim=1)).square().sum(1).mean()
        for a, b in zip(one, other, strict=True)
    ]
    return sum(distances[1:], distances[0])
