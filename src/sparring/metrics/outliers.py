"""How many of the generated images are of a kind that does not belong."""

import torch
from torch import Tensor


def outlier_share(images: Tensor, clean: Tensor, foreign: Tensor) -> float:
    """Share of images [n, ...] whose nearest neighbour among clean [m, ...] and foreign [k, ...] ones is foreign.

    The distance is that of pixels; with as many clean as foreign images neither side is favoured. Our choice: the
    nearest neighbour is a classifier that nothing has trained.
    """
    nearest = [torch.cdist(images.flatten(1), real.to(images).flatten(1)).amin(1) for real in (clean, foreign)]
    return float((nearest[1] < nearest[0]).double().mean())
