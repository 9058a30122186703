"""GAN: generative adversarial network, with any objective and any penalty (Goodfellow et al., arXiv 1406.2661).

Status: proven on 8 modes in the plane, and with R1 and R2 on 25 (docs/results/gans.md).

    L_D = objective.discriminator(D(x), D(G(z))) + penalties,    L_G = objective.generator(D(G(z))),    z ~ N(0, 1)

Fake: one network call from noise. Discriminator: any that looks at single images. The objective is a setting; when
none is given it is the paper's, in the non-saturating form of its section 3:

    L_D = mean sp(-D(x)) + mean sp(D(G(z))),        L_G = mean sp(-D(G(z))),        sp(u) = log(1 + e^u)

Its best logit for a fixed generator is `log p_data / p_fake` (the paper's proposition 1). The paper has no penalty. The
recipe has R1 (Mescheder et al., arXiv 1801.04406), without which this loss circles around its solution. Sizes and rates
are ours.
"""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import (
    Discriminator,
    Given,
    Views,
    check_single,
    check_told,
    fields_of,
    generator_loss,
)
from sparring.generators import LatentGenerator
from sparring.methods.method import Losses, Method
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.runs.field import Field


class GAN(Method):
    """A generator of images or points, trained from scratch.

    Args:
        generator: from latents to images.
        discriminator: of single images.
        objective: what both players minimise; non-saturating when None.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a class-conditional generator, and nothing that tells its classes apart.
    """

    generator: LatentGenerator
    discriminator: Discriminator
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_single(discriminator)
        super().__init__(generator, discriminator)
        self.objective = objective or NonSaturating()
        check_told(discriminator, generator.takes_labels and not self.objective.takes_labels)
        self.penalties = penalties_of(penalty)

    def rollout(self, batch: Batch) -> Views:
        fake = self.generator(self.generator.latents(batch), batch.labels)
        return self.discriminator.views(batch.images, fake, Given(labels=batch.labels), batch.draws)

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        return {"adversarial": generator_loss(self.discriminator, rollout, self.objective)}

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        givens = {"": Given(labels=None if batch.labels is None else batch.labels[:1])}
        if batch.labels is not None and self.generator.takes_labels:
            givens = {f"class {label}": Given(labels=label[None]) for label in batch.labels.unique()[:3]}
        return fields_of(self.discriminator, givens, points, batch.images)


def in_full_groups(images: Tensor) -> Tensor:
    """[960, ...] rows again and again: a number that groups of nearly every size divide, for what is measured."""
    return images[torch.arange(960, device=images.device) % len(images)]
