"""The precision in which losses, features and logits are computed when networks run in half precision."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 if they are float64 already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
