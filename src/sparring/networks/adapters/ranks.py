"""Which layers an adapter serves most, and with which rank."""

import torch
from torch import Tensor, nn

from sparring.networks.adapters.lora import LoRA


def matrices(net: nn.Module) -> dict[str, Tensor]:
    """Gradients of the weights of linear and convolutional layers as matrices [out, in], by the name of the layer."""
    return {
        name: layer.weight.grad.flatten(1)
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.grad is not None
    }


def searched_ranks(gradients: dict[str, Tensor], budget: int) -> dict[str, int]:
    """Ranks of the layers that together have at most `budget` parameters and lower the loss most, to first order.

    A step of rank r against the gradient of a layer lowers the loss by the sum of its r largest squared singular values
    at best, and costs r (out + in) parameters; so directions are taken in the order of what they bring for each
    parameter. Ours; how E2GAN (arXiv 2401.06127) searches was not read.

    Args:
        gradients: of each layer, [out, in].
        budget: parameters.
    """
    offers = [
        (float(value) ** 2 / sum(gradient.shape), name)
        for name, gradient in gradients.items()
        for value in torch.linalg.svdvals(gradient.double())
    ]
    ranks: dict[str, int] = {}
    for _, name in sorted(offers, key=lambda offer: -offer[0]):
        cost = sum(gradients[name].shape)
        if cost <= budget:
            ranks[name] = ranks.get(name, 0) + 1
            budget -= cost
    return ranks


def uniform_ranks(gradients: dict[str, Tensor], budget: int) -> dict[str, int]:
    """The same rank for every layer, the largest for which all of them have at most `budget` parameters."""
    rank = budget // sum(sum(gradient.shape) for gradient in gradients.values())
    return dict.fromkeys(gradients, rank) if rank > 0 else {}


def apply_ranks(net: nn.Module, ranks: dict[str, int]) -> None:
    """Freezes a network but for low-rank adapters W + B A of these layers, of scale 1; its output stays as it is."""
    LoRA(rank=1, targets=list(ranks), ranks=ranks).apply(net)
