"""27 small perceptrons that differ in width, activation and normalisation, and one network that holds all of them."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTHS, ACTIVATIONS, NORMS = (16, 32, 64), ("leaky_relu", "silu", "tanh"), ("none", "layer", "rms")
HIDDEN = 3  # layers


class Genotype(NamedTuple):
    """An architecture by three genes, each 0, 1 or 2: of `WIDTHS`, of `ACTIVATIONS` and of `NORMS`."""

    width: int
    activation: int
    norm: int


GENOTYPES = [Genotype(*genes) for genes in product(range(3), repeat=3)]


def size_of(genotype: Genotype, in_features: int, out_features: int) -> int:
    """Parameters of an architecture by itself."""
    width = WIDTHS[genotype.width]
    return in_features * width + width + (HIDDEN - 1) * (width * width + width) + width * out_features + out_features


def activated(x: Tensor, activation: int) -> Tensor:
    """x after one of `ACTIVATIONS`, LeakyReLU with slope 0.2."""
    return F.leaky_relu(x, 0.2) if activation == 0 else F.silu(x) if activation == 1 else x.tanh()


class SmallPerceptron(ModelMixin, ConfigMixin):
    """One of the 27 architectures by itself: [B, in_features] to [B, *out_shape].

    Three hidden layers, each a linear map, a normalisation without weights (none, of mean and deviation, or of the root
    mean square) and an activation.

    Args:
        genotype: Its three genes, see `Genotype`.
        in_features: Numbers of a row.
        out_shape: Shape of a row of the output.
    """

    @register_to_config
    def __init__(
        self, genotype: Sequence[int] = (0, 0, 0), in_features: int = 2, out_shape: Sequence[int] = (2, 1, 1)
    ) -> None:
        super().__init__()
        self.genotype, self.out_shape = Genotype(*genotype), tuple(out_shape)
        if self.genotype not in GENOTYPES:
            raise ValueError(f"`genotype={list(genotype)}` must be three genes, each 0, 1 or 2")
        width = WIDTHS[self.genotype.width]
        sizes = [in_features, *[width] * HIDDEN]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.read_out = nn.Linear(width, math.prod(out_shape))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
            if self.genotype.norm == 1:
                x = F.layer_norm(x, x.shape[1:])
            elif self.genotype.norm == 2:
                x = F.rms_norm(x, x.shape[1:], eps=1e-5)
            x = activated(x, self.genotype.activation)
        return self.read_out(x).view(len(x), *self.out_shape)


class SuperPerceptron(ModelMixin, ConfigMixin):
    """All 27 architectures with shared weights: a narrower one has the first units of the widest; the rest is alike.

    The last 27 numbers of a row are the one-hot number of its architecture in `GENOTYPES`, as a `Classes` prior makes
    them; so rows of one batch may pass through different ones.

    Args:
        in_features: Numbers of a row without those.
        out_shape: Shape of a row of the output.
    """

    @register_to_config
    def __init__(self, in_features: int = 2, out_shape: Sequence[int] = (2, 1, 1)) -> None:
        super().__init__()
        self.in_features, self.out_shape = in_features, tuple(out_shape)
        sizes = [in_features, *[max(WIDTHS)] * HIDDEN]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.read_out = nn.Linear(max(WIDTHS), math.prod(out_shape))

    def forward(self, z: Tensor) -> Tensor:
        """[B, in_features + 27] to [B, *out_shape]."""
        x, number = z[:, : self.in_features], z[:, self.in_features :].argmax(1)
        genes = torch.tensor(GENOTYPES, device=z.device)[number]
        widths = torch.tensor(WIDTHS, device=z.device)[genes[:, 0]][:, None]
        active = (torch.arange(max(WIDTHS), device=z.device) < widths).to(z)
        widths = widths.to(z)
        for layer in self.hidden:
            x = layer(x) * active
            mean = x.sum(1, keepdim=True) / widths
            centred = (x - mean) * active
            by_deviation = centred * (centred.square().sum(1, keepdim=True) / widths + 1e-5).rsqrt()
            by_root = x * (x.square().sum(1, keepdim=True) / widths + 1e-5).rsqrt()
            x = chosen_of([x, by_deviation, by_root], genes[:, 2])
            x = chosen_of([activated(x, a) for a in range(3)], genes[:, 1]) * active
        return self.read_out(x).view(len(x), *self.out_shape)

    def alone(self, genotype: Genotype) -> SmallPerceptron:
        """One architecture with a copy of its weights."""
        net = SmallPerceptron(genotype, self.in_features, self.out_shape)
        with torch.no_grad():
            for mine, its in zip([*self.hidden, self.read_out], [*net.hidden, net.read_out], strict=True):
                assert isinstance(mine, nn.Linear)
                assert isinstance(its, nn.Linear)
                its.weight.copy_(mine.weight[: its.weight.shape[0], : its.weight.shape[1]])
                its.bias.copy_(mine.bias[: its.bias.shape[0]])
        return net.to(self.read_out.weight.dtype)


def chosen_of(choices: Sequence[Tensor], gene: Tensor) -> Tensor:
    """Row by row the one of three tensors [B, d] that the gene [B] says."""
    return torch.where((gene == 0)[:, None], choices[0], torch.where((gene == 1)[:, None], choices[1], choices[2]))
