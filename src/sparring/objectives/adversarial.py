"""Adversarial objectives: what the two players minimise, given the scores of real and fake images."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from sparring.networks.precision import at_least_float32


@dataclass
class Scores:
    """What a discriminator makes of a batch of images.

    Attributes:
        logits: high for real images; of any shape, for example [B] or [B, M].
        features: what the logits were computed from, each [B, ...].
    """

    logits: Tensor
    features: list[Tensor] = field(default_factory=list)


class Objective(ABC):
    """A pair of losses on the scores of real and fake images, with their logits in any shape and precision.

    Means run over all elements: a discriminator with M logits per image weighs as much as one with a single logit.
    Losses are scalars in float32 (float64 for float64 logits).
    """

    needs_real: ClassVar[bool] = False
    """Whether the generator's loss also takes the scores of real images."""

    @abstractmethod
    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        """Scalar that the discriminator minimises."""

    @abstractmethod
    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        """Scalar that the generator minimises; `real` is read only if `needs_real`."""

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """What to log of the discriminator's scores."""
        return discriminator_statistics(real, fake)


class NonSaturating(Objective):
    """Softplus losses: `mean sp(-r) + mean sp(f)` for the discriminator, `mean sp(-f)` for the generator.

    Source: Goodfellow et al. 2014, "Generative Adversarial Networks", section 3 (the non-saturating form).
    """

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return softplus(-at_least_float32(real.logits)).mean() + softplus(at_least_float32(fake.logits)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return softplus(-at_least_float32(fake.logits)).mean()


class Hinge(Objective):
    """Hinge losses: `mean relu(1-r) + mean relu(1+f)` for the discriminator, `-mean f` for the generator.

    Source: Lim and Ye 2017, "Geometric GAN".
    """

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return relu(1 - at_least_float32(real.logits)).mean() + relu(1 + at_least_float32(fake.logits)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return -at_least_float32(fake.logits).mean()


class Wasserstein(Objective):
    """The gap of the mean logits: `-(mean r - mean f)` for the discriminator, `-mean f` for the generator.

    Source: Arjovsky et al. 2017, "Wasserstein GAN" (arXiv 1701.07875), algorithm 1. The gap is a distance only if the
    discriminator's slope is bounded: by a gradient penalty, by clipped weights, or by its form.

    Args:
        ceiling: gap above which the discriminator is not pushed further; None: no ceiling.

    Raises:
        ValueError: a ceiling that is not above 0.
    """

    def __init__(self, *, ceiling: float | None = None) -> None:
        if ceiling is not None and ceiling <= 0:
            raise ValueError(f"`ceiling={ceiling}` must be above 0, or the discriminator would learn nothing")
        self.ceiling = ceiling

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        gap = at_least_float32(real.logits).mean() - at_least_float32(fake.logits).mean()
        return -(gap if self.ceiling is None else gap.clamp(max=self.ceiling))

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return -at_least_float32(fake.logits).mean()

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """`gap`, which falls as the fakes get better. These logits have no zero, so there is no accuracy."""
        return {"gap": real.logits.float().mean() - fake.logits.float().mean()}


class Relativistic(Objective):
    """Relativistic pairing (RpGAN): `mean sp(-(r-f))` for the discriminator, `mean sp(-(f-r))` for the generator.

    Real i is compared with fake i, so both batches have the same shape.
    Source: Huang et al. 2025, "The GAN is dead; long live the GAN!" (R3GAN).
    """

    needs_real = True

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return softplus(-self._gap(real, fake)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        if real is None:
            raise ValueError("`Relativistic` compares fakes with reals: pass the scores of `real` to `generator` too")
        return softplus(self._gap(real, fake)).mean()

    @staticmethod
    def _gap(real: Scores, fake: Scores) -> Tensor:
        if real.logits.shape != fake.logits.shape:
            raise ValueError(
                f"`Relativistic` pairs real i with fake i, but the logits have shapes {tuple(real.logits.shape)} and "
                f"{tuple(fake.logits.shape)}: use batches of equal size"
            )
        return at_least_float32(real.logits) - at_least_float32(fake.logits)


@torch.no_grad()
def discriminator_statistics(real: Scores, fake: Scores) -> dict[str, Tensor]:
    """What to log about a discriminator: mean logits and its accuracy (sign right), reals and fakes weighing half each.

    Returns:
        Detached float32 scalars `logit_real`, `logit_fake` and `accuracy` in [0, 1]; a logit of 0 counts as wrong.
    """
    right_real, right_fake = (real.logits > 0).float().mean(), (fake.logits < 0).float().mean()
    return {
        "logit_real": real.logits.float().mean(),
        "logit_fake": fake.logits.float().mean(),
        "accuracy": (right_real + right_fake) / 2,
    }
