"""CycleGAN-turbo: one-step translation between two domains without pairs (Parmar et al., arXiv 2403.12036).

Status: no gain: its discriminators alone do as well on digits and their inverse (docs/results/translation.md).

Two translators of one call, both made of a trained diffusion network as in pix2pix-turbo: G from sources y to images x,
F back. Each learns from a discriminator of its domain, and from the way there and back:

    cycle     |F(G(y)) - y| + |G(F(x)) - x| + p d(both)
    identity  |G(x) - x| + |F(y) - y| + q d(both)
    L_G,F = cycle + identity + w (mean sp(-D_x(G(y))) + mean sp(-D_y(F(x))))
    L_D   = mean sp(-D_x(x)) + mean sp(D_x(G(y))) + the same of D_y

with means of absolute differences, p = 10, q = 1 and w = 0.5; d is a distance in features. Fakes: one call each way,
without noise. Discriminators: heads on a frozen network, one for each domain. From the paper: all of that; there both
ways share one U-Net, told by a caption which way, with LoRA and an autoencoder each, and d is LPIPS. Ours: two networks
from the same start, small and of pixels, all of whose weights are trained; d in the features that D sees.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_single, generator_loss
from sparring.generators import Denoiser, LatentGenerator
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.methods.translation.pix2pix_turbo import begin, check_same_view, translate
from sparring.objectives import NonSaturating, Objective, Penalty, feature_distance, penalties_of


@dataclass
class BothWays:
    """Real images of each domain, the fakes made of those of the other, and what its discriminator sees of both."""

    real: list[Tensor]
    fake: list[Tensor]
    views: list[Views]


class CycleGANTurbo(Method):
    """Translators between two domains, in one call each.

    Args:
        generator: from sources to images, a `LatentGenerator` of a `TurboUNet`; the way back has a copy.
        discriminator: of single images, without augmentation, as it measures d; the sources have a copy.
        denoiser: run or pipeline folder of the diffusion model that both start from, or the denoiser; None: random
            weights (a control).
        cycle_weight: of the way there and back.
        cycle_perceptual: p, of its distance in features.
        identity_weight: of what should stay.
        identity_perceptual: q, of its distance in features.
        adversarial_weight: w; with 0 the discriminators are not trained, and only measure d.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminators.

    Raises:
        ValueError: a negative weight, nothing to learn, a discriminator that compares or augments, another network or
            start.
    """

    generator: LatentGenerator
    discriminator: Any  # a ModuleList of two, or None
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        denoiser: str | Denoiser | None = None,
        *,
        cycle_weight: float = 1.0,
        cycle_perceptual: float = 10.0,
        identity_weight: float = 1.0,
        identity_perceptual: float = 1.0,
        adversarial_weight: float = 0.5,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        cycle = dict(cycle_weight=cycle_weight, cycle_perceptual=cycle_perceptual)
        identity = dict(identity_weight=identity_weight, identity_perceptual=identity_perceptual)
        check_not_negative(**cycle, **identity, adversarial_weight=adversarial_weight)
        if cycle_weight == cycle_perceptual == adversarial_weight == 0:
            raise ValueError("the weights of cycle and discriminator are 0: only copies would be learned")
        check_single(discriminator)
        if cycle_perceptual > 0 or identity_perceptual > 0:
            check_same_view(discriminator, generator.image_shape)
        begin(generator, denoiser)
        both = nn.ModuleList([discriminator, deepcopy(discriminator)])
        super().__init__(generator, both if adversarial_weight > 0 else None)
        self.eyes = both.requires_grad_(False) if adversarial_weight == 0 else None
        self.back = deepcopy(generator)
        self.cycle_weight, self.cycle_perceptual = cycle_weight, cycle_perceptual
        self.identity_weight, self.identity_perceptual = identity_weight, identity_perceptual
        self.adversarial_weight = adversarial_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    def parts(self) -> list[nn.Module]:
        return [self.back]

    @property
    def sees(self) -> Any:
        """The discriminators, trained or not: of the images, and of the sources."""
        return self.discriminator or self.eyes

    def rollout(self, batch: Batch) -> BothWays:
        assert batch.source is not None
        real = [batch.images, batch.source]
        fake = [translate(self.generator, batch.source), translate(self.back, batch.images)]
        views = [sees.views(*pair, Given(), batch.draws) for sees, *pair in zip(self.sees, real, fake, strict=True)]
        return BothWays(real, fake, views)

    def discriminator_loss(self, batch: Batch, rollout: BothWays) -> Losses:
        losses: Losses = {}
        for name, discriminator, views in zip(("", "back_"), self.discriminator, rollout.views, strict=True):
            losses |= self.discriminator_terms(
                discriminator, views, self.objective, self.penalties, batch.draws, prefix=name
            )
        return losses

    def generator_loss(self, batch: Batch, rollout: BothWays) -> Losses:
        x, y = rollout.real
        made_x, made_y = rollout.fake
        losses: Losses = {}
        for name, images, sources, *weights in (
            ("cycle", made_y, made_x, self.cycle_weight, self.cycle_perceptual),
            ("identity", x, y, self.identity_weight, self.identity_perceptual),
        ):
            if any(weights):
                made = [translate(self.generator, images), translate(self.back, sources)]
                losses[name] = self.distance(batch, rollout, made, *weights)
        if self.discriminator is not None:
            adversarial = [
                generator_loss(discriminator, views, self.objective)
                for discriminator, views in zip(self.discriminator, rollout.views, strict=True)
            ]
            losses["adversarial"] = self.adversarial_weight * (adversarial[0] + adversarial[1])
        return losses

    def distance(self, batch: Batch, rollout: BothWays, made: list[Tensor], weight: float, perceptual: float) -> Tensor:
        """How far images of both domains are from the real ones that they should be, summed over the domains."""
        total = batch.images.new_zeros(())
        for discriminator, one, real, views in zip(self.sees, made, rollout.real, rollout.views, strict=True):
            if weight > 0:
                total = total + weight * (one - real).abs().mean()
            if perceptual > 0:
                features = discriminator.features(one, Given(), batch.draws)
                total = total + perceptual * feature_distance(features, views.real)
        return total
