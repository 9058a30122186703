"""Where networks run that nobody has put anywhere, and those that are needed there only for a moment."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def lent(parts: Sequence[nn.Module], device: torch.device, back: bool) -> Iterator[None]:
    """Frozen networks are on a device for as long as this is open, and then, if `back`, where they were before.

    Their numbers stay there all the time: they are copied to the device and never back.
    """
    at_home: list[Any] = [
        (tensors, name, tensor, tensor.data)
        for part in parts
        for module in part.modules()
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    try:
        for part in parts:
            part.to(device)
        yield
    finally:
        for tensors, name, tensor, numbers in at_home if back else ():
            tensors[name], tensor.data = tensor, numbers
