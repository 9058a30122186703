"""Copies of a classifier, each lightly adapted to a range of noise levels."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparring.backbones.backbone import Backbone, freeze


class _Logits(nn.Module):
    """A backbone that is called for its logits."""

    def __init__(self, base: Backbone) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base.features_and_logits(x)[1]
        if logits is None:
            raise ValueError("`net.base`: this backbone knows no classes, and a classifier is needed")
        return logits


class Experts(nn.Module):
    """From noisy images and times to the logits of an adapted classifier: `net(x, time)`.

    Each of the experts is the classifier with W + (alpha / rank) B A for every weight of two or more dimensions
    (convolutions as [out, in k k]), and a term of its own for every bias and norm. The head stays as it is. B and the
    terms start at zero, so that all experts are the classifier at first. Only adapters require a gradient. Source: PPAP
    (arXiv 2212.05973), official code.

    Args:
        base: A classifier of clean images.
        experts: Their number, on equal ranges of the time from clean images to noise.
        rank: Of B A.
        alpha: Scale of the adapters times rank.
        head: Beginning of the names of the parameters that are not adapted.

    Attributes:
        edges: [experts - 1] the network's times between the ranges; those below the first belong to expert 0.

    Raises:
        ValueError: A number below 1.
    """

    edges: Tensor

    def __init__(
        self, *, base: Backbone, experts: int = 5, rank: int = 16, alpha: float = 8.0, head: str = "classifier"
    ) -> None:
        super().__init__()
        if min(experts, rank) < 1:
            raise ValueError(f"`experts={experts}` and `rank={rank}` must be at least 1")
        self.classify = _Logits(freeze(base))
        self.scale = alpha / rank
        self.register_buffer("edges", torch.arange(1, experts, dtype=torch.float32))
        self.adapters = nn.ParameterDict()
        for name, weight in base.named_parameters():
            if name.startswith(head):
                continue
            key = name.replace(".", "-")
            if weight.ndim < 2:
                self.adapters[key] = torch.zeros(experts, *weight.shape)
                continue
            wide = weight.flatten(1).shape[1]
            self.adapters[f"{key}-a"] = torch.randn(experts, rank, wide) / wide**0.5
            self.adapters[f"{key}-b"] = torch.zeros(experts, len(weight), rank)

    @property
    def base(self) -> Backbone:
        """The classifier of clean images."""
        return self.classify.base

    def weights(self, number: int) -> dict[str, Tensor]:
        """Parameters of one expert, by the names of `classify`."""
        adapted = {}
        for name, weight in self.base.named_parameters():
            key = name.replace(".", "-")
            if key in self.adapters:
                adapted[f"base.{name}"] = weight + self.adapters[key][number]
            elif f"{key}-a" in self.adapters:
                change = self.adapters[f"{key}-b"][number] @ self.adapters[f"{key}-a"][number]
                adapted[f"base.{name}"] = weight + self.scale * change.view_as(weight)
        return adapted

    def expert_of(self, time: Tensor) -> Tensor:
        """Numbers [B] of the experts for the network's times [B]."""
        return torch.bucketize(time, self.edges.to(time.dtype))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, C, H, W] and the network's times [B] to logits [B, classes]; a row sees its own expert only."""
        chosen, order, found = self.expert_of(time), [], []
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            order.append(rows)
            found.append(functional_call(self.classify, self.weights(number), (x[rows],)))
        return torch.cat(found)[torch.cat(order).argsort()]
