"""Training mode and eval mode of networks, also when activations are computed a second time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
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


@contextmanager
def same_dropout(like: Tensor) -> Iterator[None]:
    """What dropout draws in here, on the device of a tensor, it draws again afterwards.

    So two passes of one network, the first of them in here, have the same masks.
    """
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


class PlainAttention:
    """Attention in its plain kernel, which can be differentiated twice; a context that can be entered many times."""

    def __enter__(self) -> None:
        self.kernel = sdpa_kernel(SDPBackend.MATH)
        self.kernel.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.kernel.__exit__(*error)


def checkpointed(module: nn.Module, *args: Any) -> Any:
    """`module(*args)`, computed again in the backward pass, in eval mode again if it was in eval mode at first.

    For diffusers' `enable_gradient_checkpointing`: a simulated sampler runs without dropout, and the network is back in
    training mode when its gradient is taken. If attention was held to its plain kernel, so it is the second time.
    """
    module = getattr(module, "__self__", module)  # diffusers' PRX gives `block.__call__`
    kernels = torch.backends.cuda
    plain = kernels.math_sdp_enabled() and not kernels.flash_sdp_enabled()
    second = PlainAttention() if plain else nullcontext()
    how: dict[str, Any] = dict(use_reentrant=False, context_fn=lambda: (nullcontext(), second))
    if module.training:
        return checkpoint(module, *args, **how)

    def run(*args: Any) -> Any:
        if not module.training:
            return module(*args)
        with eval_mode(module):
            return module(*args)

    return checkpoint(run, *args, **how)
