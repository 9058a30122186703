"""Drifting: a generator of one call, whose images a kernel moves towards real ones (Deng et al., arXiv 2602.04770).

Status: proven on digits from scratch at one call: 0.65 in 2000 steps, where plain training has 0.45 at its best
(docs/results/students.md).

The network makes images from pure noise in one call. In the features phi of a frozen backbone each generated point
drifts towards real neighbours and away from the other generated ones. It is regressed on where it would go:

    A = sqrt( softmax over z of -d(y, z) / R * softmax over y of -d(y, z) / R ),        R = 0.02, 0.05, 0.2 means of d
    V_R(y) = sum over real z of A (sum of A over fakes) z - sum over fake z of A (sum of A over reals) z
    L = sum over features of mean |phi(y) - sg(phi(y) + V)|^2,        V the sum of V_R, each over its root mean square

If both populations agree there is nowhere to go. Only the generator learns. So a GAN on the same features has to do
better, or its discriminator adds nothing. The value of L says nothing; the `drift` before it is normalised does.

There is no teacher, and no discriminator unless one is given (ours, with the weight 0.1): then y is its fake. The
kernel is that of the official program. Ours: the features are mean and deviation of each map, and the pixels, a field
for each; a group is some rows of a batch with their real images, in which those of a class see each other if the
network takes classes. Left out: a bank of real images, unconditional negatives with guidance, and the paper's own
backbone.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.backbones import Backbone, freeze
from sparring.backbones.fitting import images_to_learn
from sparring.data import Batch, ImageData
from sparring.discriminators import Discriminator, Given, Views, check_single
from sparring.generators import Denoiser
from sparring.methods.method import Losses
from sparring.methods.opposed import Opposed
from sparring.objectives import Objective, Penalty
from sparring.objectives.drifting import drifting_loss
from sparring.rollout import from_noise, real_and_fake, student_levels, student_sampler


@dataclass
class Generated:
    """Generated images [B, C, H, W], and what a discriminator sees, if there is one."""

    images: Tensor
    views: Views = field(default_factory=Views)


class Drifting(Opposed):
    """Trains a denoiser as a generator of one call, from scratch or from a trained start.

    Args:
        generator: a denoiser, which is asked at its noisiest level only.
        discriminator: tells the generated images from real ones, each by itself; none by default.
        backbone: frozen, with feature maps; None: the pixels are the only feature.
        group: rows that are compared at once; a divisor of the rows that are seen together.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a group of one row; a network of captions or sources, no two of which are alike; a discriminator
            that compares.
    """

    sample_steps = 1

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        backbone: Backbone | None = None,
        group: int = 64,
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if group < 2:
            raise ValueError(f"`group={group}` must be at least 2: points are pushed from others")
        if generator.captioned or generator.takes_source:
            raise ValueError("Drifting compares images of the same class, and no two of the same caption or source")
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, **opponent)  # type: ignore[arg-type]
        if self.discriminator is not None:
            check_single(self.discriminator)
        self.backbone = None if backbone is None else freeze(backbone)
        self.group = group
        self.sampler, self.levels = student_sampler(1), student_levels(generator, 1)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        if self.backbone is not None and self.backbone.needs_images:
            self.backbone.prepare(*images_to_learn(data), seed)

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        if batch_size % self.group:
            raise ValueError(f"`batch_size={batch_size}` must be a multiple of `group={self.group}`")

    def rollout(self, batch: Batch) -> Generated:
        made = from_noise(self.generator, batch, self.levels).x0
        if self.discriminator is None:
            return Generated(self.generator.decode(made))
        real, fake = real_and_fake(self.generator, batch, made)
        given = Given(labels=batch.labels, condition=batch.condition)
        return Generated(fake, self.discriminator.views(real, fake, given, batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: Generated) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def generator_loss(self, batch: Batch, rollout: Generated) -> Losses:
        if len(batch) % self.group:
            raise ValueError(f"`group={self.group}` must divide the rows that are seen together, {len(batch)}")
        with torch.no_grad():
            real = self.features(batch.images)
        fake = self.features(rollout.images)
        labels = batch.labels if self.generator.takes_labels else None
        made = [drifting_loss(*pair, self.group, labels) for pair in zip(fake, real, strict=True)]
        self.log(drift=torch.stack([size for _, size in made]).mean())
        return {"drifting": torch.stack([loss for loss, _ in made]).sum()} | self.adversarial(rollout.views)

    def features(self, images: Tensor) -> list[Tensor]:
        """The pixels, and the mean and the deviation of each map, [B, d] each."""
        found = [images.flatten(1)]
        for one in [] if self.backbone is None else self.backbone.maps(images):
            places = one.flatten(2)
            found += [places.mean(2), (places.var(2, correction=0) + 1e-6).sqrt()]
        return found
