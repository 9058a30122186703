"""Adversarial objectives: what the two players minimise, given the scores of real and fake images."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from sparring.data import Draws
from sparring.networks.precision import at_least_float32


@dataclass
class Scores:
    """What a discriminator makes of a batch of images, and what is known of its rows.

    Attributes:
        logits: high for real images; of any shape, for example [B] or [B, M]. For class-wise objectives [B, K, ...],
            for kernels [B, ...], an embedding.
        features: what the logits were computed from, each [B, ...].
        hidden: [B, d] what the last layer makes the logits of, if the discriminator gives it.
        direction: the logits once more, but with gradient only to the direction of the last layer (`Sliced`).
        labels: [B, ...] class numbers.
        cost: [B] cost of bringing each fake from where it comes.
        draws: random numbers for the rows, when the discriminator is updated.
    """

    logits: Tensor
    features: list[Tensor] = field(default_factory=list)
    hidden: Tensor | None = None
    direction: Tensor | None = None
    labels: Tensor | None = None
    cost: Tensor | None = None
    draws: Draws | None = None


class Objective(ABC):
    """A pair of losses on the scores of real and fake images, with their logits in any shape and precision.

    Means run over all elements: a discriminator with M logits per image weighs as much as one with a single logit.
    Losses are scalars in float32 (float64 for float64 logits).
    """

    needs_real: bool = False
    """Whether the generator's loss also takes the scores of real images."""
    takes_labels: bool = False
    """Whether the generator's loss depends on the classes that its fakes are of."""
    has_zero: bool = True
    """Whether a logit of 0 is undecided between real and fake, so that its sign says something."""

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

    Args:
        smoothing: s in `mean [(1 - s) sp(-r) + s sp(r)]` on reals: their target is 1 - s instead of 1, while that of
            fakes stays 0 (Salimans et al., arXiv 1606.03498, section 3.4, where it is 0.1).

    Raises:
        ValueError: a smoothing outside [0, 0.5).
    """

    def __init__(self, *, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < 0.5:
            raise ValueError(f"`smoothing={smoothing}`: the target of reals is 1 - smoothing, above 1/2")
        self.smoothing = smoothing

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        r, f = at_least_float32(real.logits), at_least_float32(fake.logits)
        loss = softplus(-r).mean() + softplus(f).mean()
        return loss + self.smoothing * r.mean() if self.smoothing > 0 else loss  # sp(r) = sp(-r) + r

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return softplus(-at_least_float32(fake.logits)).mean()


class Saturating(NonSaturating):
    """The minimax game: the discriminator's loss of `NonSaturating`, and `-mean sp(f)` for the generator.

    The generator minimises what the discriminator maximises, `log(1 - sigmoid(f))`, whose slope vanishes for fakes that
    are recognised.
    Source: Goodfellow et al. 2014, Eq. (1), which the paper's section 3 advises against.

    Args:
        smoothing: of the discriminator's loss, see `NonSaturating`.
    """

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return -softplus(at_least_float32(fake.logits)).mean()


class LeastSquares(Objective):
    """Squared distances to targets: `mean (r-1)^2 / 2 + mean f^2 / 2` and, for the generator, `mean (f-1)^2 / 2`.

    Source: Mao et al. 2017, "Least Squares Generative Adversarial Networks" (arXiv 1611.04076), with the targets 0 for
    fakes and 1 for reals and for the generator. So a logit of 1/2 is undecided, and that is where accuracy counts.
    """

    has_zero = False

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return (at_least_float32(real.logits) - 1).square().mean() / 2 + at_least_float32(
            fake.logits
        ).square().mean() / 2

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return (at_least_float32(fake.logits) - 1).square().mean() / 2

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        halves = discriminator_statistics(Scores(real.logits.float() - 0.5), Scores(fake.logits.float() - 0.5))
        return discriminator_statistics(real, fake) | {"accuracy": halves["accuracy"]}


class Hinge(Objective):
    """Hinge losses: `mean relu(m-r) + mean relu(m+f)` for the discriminator, `-mean f` for the generator.

    Source: Lim and Ye 2017, "Geometric GAN", with the margin m = 1. A `spread` draws a margin for every logit, uniform
    in (1 - spread, 1]: FastGAN (Liu et al., arXiv 2101.04775) has 0.2.

    Args:
        spread: how far the margins reach below 1.

    Raises:
        ValueError: a spread outside [0, 1]; in `discriminator`, a spread without random numbers.
    """

    def __init__(self, *, spread: float = 0.0) -> None:
        if not 0 <= spread <= 1:
            raise ValueError(f"`spread={spread}`: margins are uniform in (1 - spread, 1], so it lies in [0, 1]")
        self.spread = spread

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        above, below = at_least_float32(real.logits), at_least_float32(fake.logits)
        return relu(self._margin(real) - above).mean() + relu(self._margin(fake) + below).mean()

    def _margin(self, scores: Scores) -> Tensor | float:
        if self.spread == 0:
            return 1.0
        if scores.draws is None:
            raise ValueError(f"`spread={self.spread}`: random margins need the `draws` of the scores")
        return 1 - self.spread * scores.draws.uniform(scores.logits.shape).to(scores.logits.device)

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

    has_zero = False

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
        return {"gap": at_least_float32(real.logits).mean() - at_least_float32(fake.logits).mean()}


class Relativistic(Objective):
    """Relativistic pairing (RpGAN): `mean sp(-(r-f))` for the discriminator, `mean sp(-(f-r))` for the generator.

    Real i is compared with fake i, so both batches have the same shape.
    Source: Huang et al. 2025, "The GAN is dead; long live the GAN!" (R3GAN).
    """

    needs_real, has_zero = True, False

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return softplus(-self._gap(real, fake)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        if real is None:
            raise ValueError("`Relativistic` compares fakes with reals: pass the scores of `real` to `generator` too")
        return softplus(self._gap(real, fake)).mean()

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """`accuracy` is the share of pairs whose real logit is the larger one, since only differences have a zero."""
        right = {"accuracy": (self._gap(real, fake).detach() > 0).float().mean()}
        return discriminator_statistics(real, fake) | right

    @staticmethod
    def _gap(real: Scores, fake: Scores) -> Tensor:
        if real.logits.shape != fake.logits.shape:
            raise ValueError(
                f"`Relativistic` pairs real i with fake i, but the logits have shapes {tuple(real.logits.shape)} and "
                f"{tuple(fake.logits.shape)}: use batches of equal size"
            )
        return at_least_float32(real.logits) - at_least_float32(fake.logits)


class Sliced(Objective):
    """Another objective, and the Wasserstein gap `mean dir_f - mean dir_r` for the direction of the last layer.

    The base objective trains all but that direction, which the gap trains and nothing else: see `SlicedDiscriminator`.
    Source: Takida et al. 2024, "SAN: Inducing Metrizability of GAN with Discriminative Normalized Linear Layer"
    (arXiv 2301.12811).

    Args:
        base: objective of the logits.
        direction_weight: factor of the gap; 1 in the paper. 0 leaves the direction as it was at the start.

    Raises:
        ValueError: a negative weight; in `discriminator`, scores of a discriminator whose last layer is not sliced.
    """

    def __init__(self, base: Objective, *, direction_weight: float = 1.0) -> None:
        if direction_weight < 0:
            raise ValueError(f"`direction_weight={direction_weight}` must be 0 or more")
        self.base, self.direction_weight = base, direction_weight
        self.needs_real, self.takes_labels, self.has_zero = base.needs_real, base.takes_labels, base.has_zero

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        if real.direction is None or fake.direction is None:
            raise ValueError("`Sliced` trains the direction of the last layer: use it with a `SlicedDiscriminator`")
        gap = at_least_float32(fake.direction).mean() - at_least_float32(real.direction).mean()
        return self.base.discriminator(real, fake) + self.direction_weight * gap

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return self.base.generator(fake, real)

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        return self.base.statistics(real, fake)


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
