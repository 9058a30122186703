"""Frozen linear layers whose weights are kept in 8 or 4 bits, and the network as if they were not.

Weights are made whole for a moment when a layer computes, in the backward pass again, so that none is kept from one to
the other. (The layers of torchao keep a whole copy of every weight between the two, and with it what was saved.)
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

GROUP = 64  # weights that share a scale in 4 bits, as in QLoRA

# fmt: off
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
"""The 16 levels of NormalFloat, quantiles of a normal density (Dettmers et al., arXiv 2305.14314)."""


class Quantized(nn.Module, ABC):
    """A frozen linear layer [..., in_features] -> [..., out_features]; it computes as one with the weights `weight`.

    Args:
        layer: whose weights and bias are kept; the bias in its own precision.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = None if layer.bias is None else _frozen(layer.bias.detach())

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weights [out_features, in_features] in the precision that the layer had."""

    def forward(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self)


class Int8Linear(Quantized):
    """Weights of 8 bits: whole numbers from -127 to 127, times a scale for each output."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        weight = layer.weight.detach()
        scale = _no_zeros(weight.abs().amax(1, keepdim=True) / 127)
        self.scale = _frozen(scale)
        self.rounded = _frozen((weight.float() / scale.float()).round().clamp(-127, 127).to(torch.int8))

    @property
    def weight(self) -> Tensor:
        return self.rounded.to(self.scale.dtype) * self.scale


class NF4Linear(Quantized):
    """Weights of 4 bits: the nearest of the levels `NF4`, times the largest absolute weight of each 64 in a row.

    Source: QLoRA (Dettmers et al., arXiv 2305.14314); scales are not quantised again.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        weight = layer.weight.detach().flatten()
        groups = pad(weight, (0, -len(weight) % GROUP)).unflatten(0, (-1, GROUP))
        scale = _no_zeros(groups.abs().amax(1, keepdim=True))
        levels = torch.tensor(NF4, device=weight.device)
        codes = torch.bucketize(groups.float() / scale.float(), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        self.scale = _frozen(scale)
        self.codes = _frozen(16 * codes[:, ::2] + codes[:, 1::2])  # two in a byte
        pairs = torch.cartesian_prod(levels, levels).to(weight.dtype)
        self.register_buffer("pairs", pairs, persistent=False)

    @property
    def weight(self) -> Tensor:
        pairs: Any = self.pairs
        groups = pairs.to(self.scale.dtype)[self.codes.int()].flatten(1) * self.scale
        return groups.flatten()[: self.out_features * self.in_features].view(self.out_features, self.in_features)


KINDS: dict[str, type[Quantized]] = {"int8": Int8Linear, "nf4": NF4Linear}


class _Linear(torch.autograd.Function):
    """x W^T + b, of which the graph keeps neither x nor W; it can be differentiated twice, and along a direction."""

    @staticmethod
    def forward(x: Tensor, layer: Quantized) -> Tensor:
        return linear(x, layer.weight, layer.bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Quantized], output: Tensor) -> None:
        ctx.layer = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return linear(tangent, ctx.layer.weight)


def quantize(net: nn.Module, kind: str) -> None:
    """Replaces the frozen linear layers of a network in place.

    Args:
        net: the network, with its adapters.
        kind: "int8" or "nf4".

    Raises:
        ValueError: there are none.
    """
    found = {
        name: layer
        for name, layer in net.named_modules()
        if type(layer) is nn.Linear and not any(parameter.requires_grad for parameter in layer.parameters())
    }
    if not found:
        raise ValueError(f"`frozen={kind}`: {type(net).__name__} has no linear layers of its own; take bf16")
    for name, layer in found.items():
        net.set_submodule(name, KINDS[kind](layer))


@torch.no_grad()
def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module, in which a quantised layer is a linear layer with its `weight`."""
    state = module.state_dict()
    for name, layer in module.named_modules():
        if isinstance(layer, Quantized):
            prefix = f"{name}." if name else ""
            for key in set(layer.state_dict()) - {"bias"}:
                del state[prefix + key]
            state[f"{prefix}weight"] = layer.weight.cpu()
    return state


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _no_zeros(scale: Tensor) -> Tensor:
    """Scales of weights that are all 0 are 1."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
