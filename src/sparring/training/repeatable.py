"""Kernels of a GPU that give the same result every time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic


@contextmanager
def repeatable(on: bool) -> Iterator[None]:
    """Inside, PyTorch takes deterministic kernels and warns of operations that have none; afterwards, as before.

    Without it, backward passes of convolutions on a GPU add up in any order, and equal runs differ in the last bits.
    If the variable CUBLAS_WORKSPACE_CONFIG is unset, it is set; cuBLAS reads it at its first call.

    Args:
        on: whether to change anything.
    """
    if not on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
