"""Whether weights are the same: checksums of tensors, and a digest of many."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def checksum(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bit patterns, read as integers, as int64: equal for equal bits, on every device."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    return flat.view(sizes[flat.element_size()]).sum(dtype=torch.int64)


def digest_of(tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of names, shapes, types and checksums."""
    lines = [f"{name} {tuple(t.shape)} {t.dtype} {checksum(t).item()}" for name, t in sorted(tensors.items())]
    return hashlib.sha256("\n".join(lines).encode()).digest()
