"""WGAN: Wasserstein GAN (Arjovsky et al., arXiv 1701.07875).

Status: unproven.

    L_D = mean D(G(z)) - mean D(x) + penalty,        L_G = -mean D(G(z)),        z ~ N(0, 1)

If the slope of D is at most 1, the gap is at most the earth mover's distance of fakes and reals. Fake: one network call
from noise. Discriminator: any that looks at single images. Its slope is bounded by `GradientPenalty` (Gulrajani et al.,
arXiv 1704.00028) or, as in the first paper, by clipped weights (`PlainDiscriminator.clip`). Sizes and rates are ours.
"""

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, discriminator_losses, generator_loss
from sparring.generators import LatentGenerator
from sparring.methods.method import Losses, Method
from sparring.objectives import Penalty, Wasserstein, penalties_of


class WGAN(Method):
    """A generator of images or points, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images.
        penalty: one penalty or several on the discriminator.
    """

    generator: LatentGenerator
    discriminator: Discriminator
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if discriminator.needs_reference != "no":
            raise ValueError(
                f"{type(discriminator).__name__} compares fakes with the images they were made from: use another"
            )
        super().__init__(generator, discriminator)
        self.objective = Wasserstein()
        self.penalties = penalties_of(penalty)

    def rollout(self, batch: Batch) -> Views:
        fake = self.generator(self.generator.latents(batch), batch.labels)
        return self.discriminator.views(batch.images, fake, Given(labels=batch.labels), batch.draws)

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        losses, statistics = discriminator_losses(
            self.discriminator, rollout, self.objective, self.penalties, step=self.step, draws=batch.draws
        )
        self.log(**statistics)
        return {**losses}

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        return {"adversarial": generator_loss(self.discriminator, rollout, self.objective)}
