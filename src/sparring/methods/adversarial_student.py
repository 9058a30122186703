"""What the students that a GAN makes of a trained denoiser share: the fake, both losses and what cannot work."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_single, check_told, generator_loss
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.objectives import Objective, Penalty, penalties_of
from sparring.rollout import DiscriminatorInput, from_noise, own_steps, real_and_fake, student_levels, student_sampler

FAINT = 0.02  # an alpha by which the errors of an eps network must not be divided; that of Stable Diffusion 1 is 0.07


@dataclass
class StudentRollout:
    """Real images and the student's, [B, C, H, W], as the discriminator sees them, and what it makes of them."""

    real: Tensor
    fake: Tensor
    views: Views


class AdversarialStudent(Method):
    """A denoiser of one or a few calls, trained only against a discriminator that sees its predictions.

    Args:
        generator: a trained denoiser.
        discriminator: any that looks at single images.
        num_steps: network calls of an image.
        objective: adversarial loss.
        penalty: one penalty or several on the discriminator.
        discriminator_input: what it sees of a denoiser of latents.
        simulate: of several calls, train the cleaner ones from the student's own calls before them, and not from noised
            images.

    Raises:
        ValueError: a discriminator that compares, or is not conditioned on the classes that the denoiser takes; an eps
            network on a schedule that ends in noise only; what `student_levels` refuses.
    """

    generator: Denoiser
    discriminator: Discriminator

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int,
        objective: Objective,
        penalty: Penalty | list[Penalty] | None,
        discriminator_input: DiscriminatorInput,
        simulate: bool = False,
    ):
        check_single(discriminator)
        check_told(discriminator, generator.takes_labels, from_noise=True)
        super().__init__(generator, discriminator)
        self.sampler, self.sample_steps = student_sampler(num_steps), num_steps
        alpha = float(generator.process.alpha(self.levels.max()))
        if generator.prediction == "eps" and alpha < FAINT:
            raise ValueError(
                f"`prediction=eps`: a prediction from pure noise divides its error by alpha, here {alpha:.1g}; "
                "start from a network that predicts v, x0, flow or edm"
            )
        self.predict = own_steps if simulate and num_steps > 1 else from_noise
        self.objective, self.penalties = objective, penalties_of(penalty)
        self.discriminator_input: DiscriminatorInput = discriminator_input

    @property
    def levels(self) -> Tensor:
        """Times [num_steps] of the student's calls, rising."""
        return student_levels(self.generator, self.sample_steps)

    def given(self, batch: Batch) -> Given:
        """What the discriminator is conditioned on."""
        return Given(labels=batch.labels, condition=batch.condition)

    def rollout(self, batch: Batch) -> StudentRollout:
        made = self.predict(self.generator, batch, self.levels).x0
        real, fake = real_and_fake(self.generator, batch, made, self.discriminator_input)
        return StudentRollout(real, fake, self.discriminator.views(real, fake, self.given(batch), batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: Any) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Any) -> Losses:
        return {"adversarial": generator_loss(self.discriminator, rollout.views, self.objective)}
