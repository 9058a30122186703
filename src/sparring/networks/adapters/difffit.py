"""DiffFit: biases, norms and a scale factor on each residual branch (Xie et al., arXiv 2304.06648)."""

import re

import torch
from torch import Tensor, nn

from sparring.networks.adapters.tuning import Tuning, names_ending_in

BRANCH_ENDS = ("to_out.0", "to_add_out", "ff.net.2", "ff_context.net.2", "conv2")
"""diffusers' names of the last layer of a residual branch: attention, feed-forward, convolutions of a U-Net."""


NORMS = re.compile(r"(Batch|Group|Layer|RMS)Norm")


class DiffFit(Tuning):
    """Biases, normalisation weights, class embeddings, and a scale factor on each residual branch, from 1.

    Source: Xie et al. 2023, "DiffFit", arXiv 2304.06648, for transformers. Scale factors on the convolutional branches
    of a U-Net are ours.
    """

    def apply(self, net: nn.Module) -> None:
        net.requires_grad_(False)
        for name, module in net.named_modules():
            whole = NORMS.search(type(module).__name__) or re.search(r"(class|label)_embed", name)
            for own, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(own == "bias" or whole is not None)
        layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        for name in names_ending_in(layers, BRANCH_ENDS):
            net.set_submodule(name, Scaled(layers[name]))
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise ValueError(f"`tuning=DiffFit`: {type(net).__name__} has no bias, norm or known residual branch")


class Scaled(nn.Module):
    """gamma times a layer, with gamma from 1."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.base_layer = layer
        self.gamma = nn.Parameter(torch.ones((), device=next(layer.parameters()).device))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.base_layer(x)
