"""What students with a loss of their own share that a discriminator may oppose, too: it sees their predictions."""

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_told, generator_loss
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.rollout import Noised, real_and_fake


class Opposed(Method):
    """A student that a discriminator opposes beside its own loss, or that none does.

    Args:
        generator: the student.
        discriminator: tells its predictions of the clean image from the images, or None. One that compares gets the
            image itself.
        adversarial_weight: of the adversarial term; 0 leaves the discriminator out.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None,
        *,
        adversarial_weight: float,
        objective: Objective | None,
        penalty: Penalty | list[Penalty] | None,
    ):
        check_not_negative(adversarial_weight=adversarial_weight)
        opponent = discriminator if adversarial_weight > 0 else None
        if opponent is not None:
            check_told(opponent, generator.takes_labels)
        super().__init__(generator, opponent)
        self.adversarial_weight = adversarial_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    def seen(self, batch: Batch, noised: Noised, image: Tensor) -> Views:
        """What the discriminator sees of the images and of predictions [B, c, h, w]; nothing if there is none."""
        return Views() if self.discriminator is None else self.views(self.discriminator, batch, noised, image)

    def seen_of_jumps(self, batch: Batch, noised: Noised) -> Views:
        """What the discriminator sees of the images and of steps from `noised` to 0; nothing if there is none.

        The steps are a call of their own, of a generator with a second time. No label or caption is left out in it,
        because the discriminator has them all.
        """
        if self.discriminator is None:
            return Views()
        image = self.generator(noised.x_t, noised.t, batch.condition, None, noised.t).x0
        return self.views(self.discriminator, batch, noised, image)

    def views(self, discriminator: Discriminator, batch: Batch, noised: Noised, image: Tensor) -> Views:
        """What a discriminator sees of the images and of predictions [B, c, h, w] from `noised`."""
        real, fake = real_and_fake(self.generator, batch, image)
        given = Given(labels=batch.labels, t=noised.t, x_t=noised.x_t, condition=batch.condition)
        return discriminator.views(real, fake, given, batch.draws, real)

    def adversarial_now(self) -> float:
        """The weight of the adversarial term in this step."""
        return self.adversarial_weight

    def adversarial(self, views: Views) -> Losses:
        """The student's adversarial term, if there is a discriminator."""
        if self.discriminator is None:
            return {}
        return {"adversarial": self.adversarial_now() * generator_loss(self.discriminator, views, self.objective)}

    def opponents_loss(self, batch: Batch, views: Views) -> Losses:
        """The discriminator's terms."""
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, views, self.objective, self.penalties, batch.draws)
