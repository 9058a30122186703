"""The Haar wavelet transform of images, as a fixed autoencoder that pipelines hold."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class HaarWavelet(ModelMixin, ConfigMixin):
    """Images [B, C, H, W] to four bands of half the size, [B, 4C, H/2, W/2], and back.

    The bands are LL, LH, HL and HH of the orthonormal transform, divided by 2, so that bands of images in [-1, 1] lie
    there, too: LL is the mean of four pixels, the others are their signed means. The energy of the bands is a quarter
    of that of the image. Source: WaveDiff (arXiv 2211.16152), with its division by 2.

    Args:
        in_channels: Channels of the images.
    """

    @register_to_config
    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        signs = [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]  # of the pixels of a square, row by row
        self.register_buffer("signs", torch.tensor(signs, dtype=torch.float32))

    def encode(self, images: Tensor) -> Tensor:
        """Bands [B, 4C, H/2, W/2], all channels of LL first."""
        squares = pixel_unshuffle(images, 2).unflatten(1, (-1, 4))
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum("kp,bcphw->bkchw", self.signs.to(images) / 4, squares).flatten(1, 2)

    def decode(self, bands: Tensor, return_dict: bool = False) -> Any:
        """A tuple of the images [B, C, H, W], as the autoencoders of diffusers give it."""
        with torch.autocast(bands.device.type, enabled=False):
            squares = torch.einsum("kp,bkchw->bcphw", self.signs.to(bands), bands.unflatten(1, (4, -1)))
        return (pixel_shuffle(squares.flatten(1, 2), 2),)
