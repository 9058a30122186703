"""What a network makes of an image, found without leaving a trace."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparring.networks.modes import eval_mode


@torch.no_grad()
def check_output(name: str, net: nn.Module, image_shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Raises ValueError unless a network makes rows of a shape of images (C, H, W).

    Args:
        name: of the setting that the network is.
        net: called as `net(images)`.
        image_shape: of one image.
        wanted: shape of one row of the output.
    """
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with eval_mode(net):
            made = net(torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"`{name}`: {type(net).__name__} cannot take images {tuple(image_shape)} ({reason})"
        ) from error
    found = tuple(made.shape[1:]) if isinstance(made, Tensor) else type(made).__name__
    if found != tuple(wanted):
        raise ValueError(f"`{name}`: {type(net).__name__} must give {tuple(wanted)} numbers for an image, not {found}")
