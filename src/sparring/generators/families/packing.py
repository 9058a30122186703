"""Latents as a sequence: 2x2 places are one token of FLUX.1 and Qwen-Image."""

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


def packed(x: Tensor) -> Tensor:
    """Tokens [B, hw/4, 4c] of latents [B, c, h, w], row by row; of a token, the four places of each channel."""
    return pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """Latents [B, c, h, w] of tokens; the inverse of `packed` for the shape (h, w)."""
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (shape[0] // 2, shape[1] // 2)), 2)
