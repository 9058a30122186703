"""Penalties on a discriminator, beside its objective. They attach to the features, which may be the images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.networks.modes import same_dropout
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
        between = interpolates(real.features, fake.features, draws)
        squares = torch.stack(squared_gradients(discriminator.logits(between, given), between)).sum(0)
        return (squares.clamp_min(1e-12).sqrt() - 1).square().mean()


class Directional(Penalty):
    """`<grad D, x - G>^2` at points `u x + (1 - u) G`: the slope along the way from a fake to a real row, not its norm.

    A directional derivative in place of a norm is the coherency penalty of parallel tempering (arXiv 2411.11786), which
    joins two mixtures of reals; from fakes to reals it is our choice.
    """

    name = "directional"

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        between = interpolates(real.features, fake.features, draws)
        ways = [(x - y).detach() for x, y in zip(real.features, fake.features, strict=True)]
        return directional_derivatives(discriminator.logits(between, given), between, ways).square().mean()


class ApproximateR1(Penalty):
    """`(D(x + s n) - D(x))^2 / (2 s^2)` at reals x, n standard normal: R1 without a second derivative, for small s.

    `weight` is the gamma of `R1`; the form lambda (D(x + s n) - D(x))^2 of APT (Lin et al., arXiv 2501.08316) has
    gamma = 2 lambda s^2. Its expectation is exact for a linear D, and `s^2 / 8 (tr(Q)^2 + 2 tr(Q^2))` too large for
    `D = x'Qx / 2`.
    Both passes carry gradient and run outside of autocast; they see features that are noised or augmented alike, and
    have the same dropout, for the difference to a pass without would measure the noise.

    Args:
        weight: gamma.
        every: steps from one computation to the next.
        std: s.
        antithetic: `(D(x + s n) - D(x - s n))^2 / (8 s^2)`, the central difference, exact for a quadratic, too.

    Raises:
        ValueError: an `std` that is not above 0.
    """

    name = "approximate_r1"

    def __init__(self, *, weight: float, every: int = 1, std: float = 0.01, antithetic: bool = False) -> None:
        super().__init__(weight=weight, every=every)
        if std <= 0:
            raise ValueError(f"`std={std}` of the perturbation must be above 0")
        self.std, self.antithetic = std, antithetic

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        return 0.5 * self.squared_slopes(discriminator, real.features, given, draws).mean()

    def squared_slopes(self, discriminator: Scoring, features: list[Tensor], given: Any, draws: Draws) -> Tensor:
        """[B] estimates of the squared gradient norm, the logits of a row summed."""
        at = [at_least_float32(x.detach()) for x in features]
        steps = [self.std * draws.normal(x.shape).to(x) for x in at]

        def logits(sign: int) -> Tensor:
            moved = [x + sign * step for x, step in zip(at, steps, strict=True)]
            with same_dropout(at[0]):
                return at_least_float32(discriminator.logits(moved, given)).reshape(len(at[0]), -1).sum(1)

        with torch.autocast(at[0].device.type, enabled=False):
            if self.antithetic:
                return ((logits(1) - logits(-1)) / (2 * self.std)).square()
            return ((logits(1) - logits(0)) / self.std).square()


class ApproximateR2(ApproximateR1):
    """`ApproximateR1` at fakes, see there."""

    name = "approximate_r2"

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        return 0.5 * self.squared_slopes(discriminator, fake.features, given, draws).mean()


class Drift(Penalty):
    """`mean r^2`: keeps logits near 0, which no Wasserstein loss does.

    Source: Karras et al. 2018, "Progressive Growing of GANs" (arXiv 1710.10196), with the weight 0.001.

    Args:
        weight: factor of the penalty.
        every: steps from one computation to the next.
        fakes: `mean r^2 + mean f^2`, as MMD GANs have it on their embeddings (arXiv 1801.01401).
    """

    name = "drift"

    def __init__(self, *, weight: float = 0.001, every: int = 1, fakes: bool = False) -> None:
        super().__init__(weight=weight, every=every)
        self.fakes = fakes

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        squares = at_least_float32(real.logits).square().mean()
        return squares + at_least_float32(fake.logits).square().mean() if self.fakes else squares


class Centring(Penalty):
    """`mean (r + f)^2`, real i with fake i: fixes the level of logits of which an objective takes only differences.

    Source: Lin et al. 2025, "Adversarial Flow Models" (arXiv 2511.22475), with the weight 0.01.
    """

    name = "centring"

    def __init__(self, *, weight: float = 0.01, every: int = 1) -> None:
        super().__init__(weight=weight, every=every)

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        return (at_least_float32(real.logits) + at_least_float32(fake.logits)).square().mean()


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


def interpolates(real: Sequence[Tensor], fake: Sequence[Tensor], draws: Draws) -> list[Tensor]:
    """Leaves `u real + (1 - u) fake`, u uniform in [0, 1) for each row, the same for all features of the row."""
    u = draws.uniform((len(real[0]),)).to(real[0].device)
    between = []
    for x, y in zip(real, fake, strict=True):
        share = u.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        between.append((share * x + (1 - share) * y).detach().requires_grad_())
    return between


def directional_derivatives(logits: Tensor, inputs: Sequence[Tensor], ways: Sequence[Tensor]) -> Tensor:
    """[B] slopes of the summed logits of a row along `ways`, shaped as the inputs [B, ...]; differentiable."""
    grads = torch.autograd.grad(at_least_float32(logits).sum(), list(inputs), create_graph=True)
    slopes = [(at_least_float32(g) * way).flatten(1).sum(1) for g, way in zip(grads, ways, strict=True)]
    return torch.stack(slopes).sum(0)


def squared_gradients(logits: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """[B] squared norms of the gradient of the summed logits at each input [B, ...], differentiable themselves."""
    total = at_least_float32(logits).sum()
    grads = torch.autograd.grad(total, list(inputs), create_graph=True, allow_unused=True, materialize_grads=True)
    return [at_least_float32(grad).square().flatten(1).sum(1) for grad in grads]
