"""Captions as a tensor, which can be saved with a run."""

import torch
from torch import Tensor


def characters(texts: list[str]) -> Tensor:
    """[n, length] int64: captions as Unicode numbers, with 0 behind their ends; a tensor can be saved with the run."""
    length = max(map(len, texts))
    return torch.tensor([[ord(c) for c in text] + [0] * (length - len(text)) for text in texts])


def texts_of(numbers: Tensor) -> list[str]:
    """The inverse of `characters`."""
    return ["".join(chr(n) for n in row if n) for row in numbers.tolist()]
