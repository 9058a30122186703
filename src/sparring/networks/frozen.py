"""What of a module training never changes, copies that share it, and copies that move."""

from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training never changes, under every name it has: parameters without gradient, and buffers of modules in eval
    mode whose parameters, of which there are some, are all frozen. Not what a `MovingCopy` moves."""
    every = module.named_parameters(remove_duplicate=False)
    tensors: dict[str, Tensor] = {name: parameter for name, parameter in every if not parameter.requires_grad}
    for prefix, part in module.named_modules(remove_duplicate=False):
        trained = [parameter.requires_grad for parameter in part.parameters()]
        if trained and not any(trained) and not part.training:
            buffers = part.named_buffers(remove_duplicate=False)
            tensors |= {f"{prefix}.{name}".removeprefix("."): buffer for name, buffer in buffers}
    moving = {id(tensor) for tensor in moving_tensors(module).values()}
    return {name: tensor for name, tensor in tensors.items() if id(tensor) not in moving}


def moving_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What the moving copies in a module move, by name."""
    copies = {name: part for name, part in module.named_modules() if isinstance(part, MovingCopy)}
    return {f"{name}.{key}".removeprefix("."): t for name, part in copies.items() for key, t in part.tensors().items()}


def copy_of_trained(module: Module) -> Module:
    """A copy that shares the memory of what is frozen with the original."""
    return deepcopy(module, {id(tensor): tensor for tensor in frozen_tensors(module).values()})


class MovingCopy(nn.Module, Generic[Module]):
    """A copy that takes no gradient and moves when its method says so: an EMA target, the teacher of the next round.

    Its weights are in every checkpoint, so that a resumed run goes on with them. What is frozen in the source is shared
    and stays. Call it as the module itself; `module` is the copy.

    Args:
        source: what is copied.
    """

    def __init__(self, source: Module) -> None:
        super().__init__()
        frozen = frozen_tensors(source)
        self.names = [name for name in source.state_dict() if name not in frozen]
        self.module = copy_of_trained(source).eval().requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "MovingCopy[Module]":
        """Stays in eval mode."""
        return super().train(False)

    def tensors(self) -> dict[str, Tensor]:
        """What moves, by name."""
        state = self.module.state_dict(keep_vars=True)
        return {f"module.{name}": state[name] for name in self.names}

    @torch.no_grad()
    def follow(self, source: Module, factor: float) -> None:
        """copy <- copy + factor (source - copy); integers are copied.

        Args:
            source: a module of the same structure.
            factor: share of the way, in [0, 1].
        """
        if not 0 <= factor <= 1:
            raise ValueError(f"`factor={factor}` must lie in [0, 1]")
        theirs, ours = source.state_dict(), self.module.state_dict()
        floating = [name for name in self.names if ours[name].is_floating_point()]
        ends = [theirs[name].to(ours[name].dtype) for name in floating]
        torch._foreach_lerp_([ours[name] for name in floating], ends, factor)
        for name in set(self.names) - set(floating):
            ours[name].copy_(theirs[name])

    @torch.no_grad()
    def refreeze(self, source: Module) -> None:
        """copy <- source, bit for bit."""
        theirs, ours = source.state_dict(), self.module.state_dict()
        for name in self.names:
            ours[name].copy_(theirs[name])

    @torch.no_grad()
    def put_back(self, target: Module) -> None:
        """target <- copy, bit for bit: the inverse of `refreeze`."""
        theirs, ours = target.state_dict(), self.module.state_dict()
        for name in self.names:
            theirs[name].copy_(ours[name])
