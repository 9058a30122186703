"""How the networks of a method are run: joined over processes, with less memory, compiled. The numbers stay."""

import torch

from sparring.methods.method import Method
from sparring.training import processes


def prepare_networks(method: Method, *, gradient_checkpointing: bool, compile: bool) -> None:
    """Sets up the networks in place; their names in checkpoints stay.

    Args:
        method: what is trained.
        gradient_checkpointing: the generator's network computes its activations again in the backward pass.
        compile: denoisers' networks go through `torch.compile`.

    Raises:
        ValueError: a network that has no gradient checkpointing.
    """
    if processes.world() > 1:
        for part in method.modules():
            if hasattr(part, "gather"):  # a judge of whole batches sees the batch of all processes
                setattr(part, "gather", processes.gather_rows)  # noqa: B010
    if gradient_checkpointing:
        net = method.generator.net
        try:
            net.enable_gradient_checkpointing()  # type: ignore[operator]
        except (AttributeError, ValueError):
            raise ValueError(f"`gradient_checkpointing`: {type(net).__name__} has none; leave it out") from None
    if compile:
        for denoiser in method.denoisers():
            denoiser.net.compile()


def device_name(device: torch.device) -> str:
    """What the run computes on, for its configuration."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
