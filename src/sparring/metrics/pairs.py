"""How near images come to those that they should be, one by one."""

import torch
from torch import Tensor

from sparring.metrics.moments import as_double

LARGEST = 100.0


def psnr(images: Tensor, real: Tensor) -> Tensor:
    """[n] peak signal-to-noise ratio in dB of images [n, ...] in [-1, 1]: `10 log10(2^2 / mean squared error)`.

    At most 100 dB, which images have that are equal. It favours what is blurred: the mean of all images that could be
    the right one has the highest.
    """
    if images.shape != real.shape:
        raise ValueError(f"images have the shape {tuple(images.shape)} and the real ones {tuple(real.shape)}")
    error = (as_double(images) - as_double(real)).square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error.clamp_min(1e-12))).clamp(max=LARGEST)
