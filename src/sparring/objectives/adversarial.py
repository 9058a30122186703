"""Adversarial objectives: what the two players minimise, given logits."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


def _exact(logits: Tensor) -> Tensor:
    """The same values in float32, or in float64 when they are float64 already."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Objective(ABC):
    """A pair of losses on logits. Means run over all elements: a judge with M logits per image weighs as one with 1.

    Logits may have any shape and precision; losses are scalars in float32 (float64 for float64 logits).
    """

    needs_real: ClassVar[bool] = False
    """Whether the generator's loss also takes the logits of real images."""

    @abstractmethod
    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Scalar that the discriminator minimises."""

    @abstractmethod
    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """Scalar that the generator minimises; `logits_real` only where `needs_real`."""


class NonSaturating(Objective):
    """Softplus losses: `mean sp(-r) + mean sp(f)` for the discriminator, `mean sp(-f)` for the generator.

    Source: Goodfellow et al. 2014, "Generative Adversarial Networks", section 3 (the non-saturating form).
    """

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        return softplus(-_exact(logits_real)).mean() + softplus(_exact(logits_fake)).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        return softplus(-_exact(logits_fake)).mean()


class Hinge(Objective):
    """Hinge losses: `mean relu(1-r) + mean relu(1+f)` for the discriminator, `-mean f` for the generator.

    Source: Lim and Ye 2017, "Geometric GAN".
    """

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        return relu(1 - _exact(logits_real)).mean() + relu(1 + _exact(logits_fake)).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        return -_exact(logits_fake).mean()


class Relativistic(Objective):
    """Relativistic pairing (RpGAN): `mean sp(-(r-f))` for the discriminator, `mean sp(-(f-r))` for the generator.

    Real i is compared with fake i, so both batches have the same shape.
    Source: Huang et al. 2025, "The GAN is dead; long live the GAN!" (R3GAN).
    """

    needs_real = True

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        return softplus(-self._gap(logits_real, logits_fake)).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        if logits_real is None:
            raise ValueError("`Relativistic` compares fakes with reals: pass `logits_real` to `generator` too")
        return softplus(self._gap(logits_real, logits_fake)).mean()

    @staticmethod
    def _gap(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        if logits_real.shape != logits_fake.shape:
            raise ValueError(
                f"`Relativistic` pairs real i with fake i, but the logits have shapes {tuple(logits_real.shape)} and "
                f"{tuple(logits_fake.shape)}: use batches of equal size"
            )
        return _exact(logits_real) - _exact(logits_fake)


@torch.no_grad()
def discriminator_statistics(logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """What to log about a discriminator: mean logits and its accuracy (sign right), reals and fakes weighing half each.

    Returns:
        Detached float32 scalars `logit_real`, `logit_fake` and `accuracy` in [0, 1]; a logit of 0 counts as wrong.
    """
    right_real, right_fake = (logits_real > 0).float().mean(), (logits_fake < 0).float().mean()
    return {
        "logit_real": logits_real.float().mean(),
        "logit_fake": logits_fake.float().mean(),
        "accuracy": (right_real + right_fake) / 2,
    }
