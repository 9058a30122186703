"""Training mode and eval mode of networks, also when activations are computed a second time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every part is in the mode in which it was."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def checkpointed(module: nn.Module, *args: Any) -> Any:
    """`module(*args)`, computed again in the backward pass, in eval mode again if it was in eval mode at first.

    For diffusers' `enable_gradient_checkpointing`: a simulated sampler runs without dropout, and the network is back in
    training mode when its gradient is taken.
    """
    if module.training:
        return checkpoint(module, *args, use_reentrant=False)

    def run(*args: Any) -> Any:
        if not module.training:
            return module(*args)
        with eval_mode(module):
            return module(*args)

    return checkpoint(run, *args, use_reentrant=False)
