"""Penalties on a discriminator, beside its objective. They attach to the features, which may be the images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.networks.precision import at_least_float32
from sparring.objectives.adversarial import Scores


class Scoring(Protocol):
    """What a penalty needs of a discriminator."""

    def logits(self, features: list[Tensor], given: Any, /) -> Tensor:
        """Logits of features."""


class Penalty(ABC):
    """A term that the discriminator minimises beside its objective.

    Args:
        weight: factor of the penalty.
        every: steps from one computation to the next, each of which counts `every` times (lazy regularisation, Karras
            et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix B).

    Attributes:
        name: of the term in the log; a discriminator has at most one penalty of a name.

    Raises:
        ValueError: a negative `weight`, or `every` below 1.
    """

    name: ClassVar[str]

    def __init__(self, *, weight: float, every: int = 1) -> None:
        if weight < 0 or every < 1:
            raise ValueError(f"`weight={weight}`, `every={every}`: weight is 0 or more, every at least 1")
        self.weight, self.every = weight, every

    def is_due(self, step: int) -> bool:
        """Whether it is computed in this step."""
        return self.weight > 0 and step % self.every == 0

    @abstractmethod
    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        """The penalty without its weight, a scalar.

        Args:
            discriminator: gives logits of other features.
            real: scores of real images; their features are leaves with gradient.
            fake: likewise of fakes, without the generator's graph.
            given: what the logits were conditioned on.
            draws: random numbers for the rows.
        """


class R1(Penalty):
    """`|grad D|^2 / 2` at real samples, see `r1_penalty`; `weight` is the gamma of the literature.

    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", Eq. (9).
    """

    name = "r1"

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        return 0.5 * r1_penalty(real.logits, real.features)


class R2(Penalty):
    """`|grad D|^2 / 2` at fakes; `weight` is the gamma of the literature.

    Source: Mescheder et al. 2018, Eq. (10); together with R1 in Huang et al. 2025 (R3GAN).
    """

    name = "r2"

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        return 0.5 * r1_penalty(fake.logits, fake.features)


class GradientPenalty(Penalty):
    """`(|grad D| - 1)^2` at points `u real + (1 - u) fake`, u uniform in [0, 1) for each pair of a real and a fake row.

    Source: Gulrajani et al. 2017, "Improved Training of Wasserstein GANs" (arXiv 1704.00028), algorithm 1, with the
    paper's weight of 10. The norm runs over all features of a row.
    """

    name = "gradient_penalty"

    def __init__(self, *, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight=weight, every=every)

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        u = draws.uniform((len(real.features[0]),)).to(real.features[0].device)
        between = []
        for x, y in zip(real.features, fake.features, strict=True):
            share = u.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
            between.append((share * x + (1 - share) * y).detach().requires_grad_())
        squares = torch.stack(squared_gradients(discriminator.logits(between, given), between)).sum(0)
        return (squares.clamp_min(1e-12).sqrt() - 1).square().mean()


def penalties_of(penalty: Penalty | Sequence[Penalty] | None) -> list[Penalty]:
    """One penalty, several or none as a list.

    Raises:
        ValueError: two of the same name.
    """
    penalties = [penalty] if isinstance(penalty, Penalty) else list(penalty or [])
    names = [part.name for part in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"`penalty` has the terms {', '.join(names)}: give each of them once")
    return penalties


def r1_penalty(logits: Tensor, x: Tensor | Sequence[Tensor]) -> Tensor:
    """Mean squared gradient norm of the discriminator at real samples, without the gamma/2 factor.

    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", Eq. (9). Given fakes
    instead of reals it is R2.

    Args:
        logits: [B, ...] discriminator output computed from `x`, graph alive; the logits of one image are summed.
            Row i must depend on row i of `x` only.
        x: [B, ...] real images, or a list of feature maps of them (the penalties add up), with requires_grad=True.

    Returns:
        Scalar in float32 (float64 for float64 inputs). Differentiable with respect to the discriminator's parameters.
    """
    inputs = [x] if isinstance(x, Tensor) else list(x)
    return torch.stack([squares.mean() for squares in squared_gradients(logits, inputs)]).sum()


def squared_gradients(logits: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """[B] squared norms of the gradient of the summed logits at each input [B, ...], differentiable themselves."""
    grads = torch.autograd.grad(at_least_float32(logits).sum(), list(inputs), create_graph=True)
    return [at_least_float32(grad).square().flatten(1).sum(1) for grad in grads]
