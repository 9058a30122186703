"""Numbers for images that were made from sources, whose true images are known."""

from dataclasses import replace

import torch
from torch import Tensor

from sparring.data import ImageData
from sparring.metrics.pairs import psnr
from sparring.runs.results import Result

AT_ONCE = 256


def sources_of(data: ImageData, n: int) -> Tensor:
    """The sources of the first n images, or of all if there are fewer.

    Raises:
        ValueError: there are none.
    """
    sources = data.sources(list(range(min(n, len(data)))))
    if sources is None:
        raise ValueError(f"the model is conditioned on source images, and {data.name} has none")
    return sources


def with_pairs(result: Result, images: Tensor, reference: ImageData) -> Result:
    """A result with `psnr`, the mean over images, whose k-th was made from the k-th source of the reference in turn.

    Without, if the reference's sources are no pairs of its images.

    Args:
        result: of the images.
        images: [n, C, H, W] in [-1, 1].
        reference: real images with their sources.
    """
    if not reference.paired:
        return result
    found = []
    for first in range(0, len(images), AT_ONCE):
        made = images[first : first + AT_ONCE]
        real, _ = reference[[(first + row) % len(reference) for row in range(len(made))]]
        found.append(psnr(made, real))
    return replace(result, psnr=float(torch.cat(found).mean()))
