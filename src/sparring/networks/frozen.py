"""What of a module training never changes, and copies that share it."""

from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


# -- what is frozen, and shared ----------------------------------------------------------------------------------------
def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training never changes, under every name it has: parameters without gradient, and buffers of modules in eval
    mode whose parameters, of which there are some, are all frozen."""
    every = module.named_parameters(remove_duplicate=False)
    tensors: dict[str, Tensor] = {name: parameter for name, parameter in every if not parameter.requires_grad}
    for prefix, part in module.named_modules(remove_duplicate=False):
        trained = [parameter.requires_grad for parameter in part.parameters()]
        if trained and not any(trained) and not part.training:
            buffers = part.named_buffers(remove_duplicate=False)
            tensors |= {f"{prefix}.{name}".removeprefix("."): buffer for name, buffer in buffers}
    return tensors


def copy_of_trained(module: Module) -> Module:
    """A copy that shares the memory of what is frozen with the original."""
    return deepcopy(module, {id(tensor): tensor for tensor in frozen_tensors(module).values()})
