"""Diffusion2GAN: a denoiser distilled into a conditional GAN (Kang et al., arXiv 2405.05967).

Status: proven on digits at one call, by its pairs; its discriminator is no gain there (docs/results/students.md).

The sampler of a trained denoiser is a map from noise z to images y. A bank of its pairs is made before the first step,
and a student of one call learns the map as image translation, by a perceptual distance and a discriminator of pairs:

    x = G(sigma_1 z, 1),       d(x, y) = |x' - y'| + |F(x') - F(y')|^2,  x', y' with the same random augmentation
    L_G = distance_weight d(x, y) + adversarial_weight sp(-D(x, z))
    L_D = sp(-D(y, z)) + sp(D(x, z)) + penalties,                             sp(u) = log(1 + e^u)

Fake: the student's image x beside the noise z that it came from; "real" is the teacher's y beside the same z. So D
asks whether an image belongs to this noise: BiGAN with the teacher's ODE as a fixed encoder.

The paper: the bank, one call, a perceptual distance in the space of the diffusion under random augmentations, a
discriminator that is conditioned on the noise; its weights and its layers are not known here. Ours: F is the middle of
the frozen teacher at the cleanest level it knows, its channels of length 1 at each place (the paper's is trained on
human judgements); augmentations are shift and cutout; D is a small network that sees z as further channels; weights 1
and 0.1, R1 0.1 in each 16th step; the size of the bank, and rates.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparring.data import Batch
from sparring.discriminators import DiffAugment, Discriminator, Given, Views, generator_loss
from sparring.generators import Condition, Denoiser
from sparring.generators.middle import middle_block, middle_map
from sparring.methods.method import Losses, check_weights
from sparring.methods.on_pairs import OnPairs
from sparring.objectives import R1, NonSaturating, Objective, Penalty, penalties_of
from sparring.process import per_image
from sparring.rollout import student_levels


@dataclass
class PairRollout:
    """The student's images x [B, c, h, w] with their graph, the teacher's y, what both are of, and what the
    discriminator sees."""

    x: Tensor
    y: Tensor
    condition: Condition
    views: Views = field(default_factory=Views)


class Diffusion2GAN(OnPairs):
    """Distils a trained denoiser into a generator of one call that imitates its sampler on a bank of pairs.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        discriminator: of an image and `Given.x_t`, the noise that belongs to it, at `Given.t` 1.
        num_pairs: pairs in the bank, in equal parts of all classes, or of captions of the data.
        scheduler: the deterministic sampler that makes them.
        num_steps: its steps.
        distance_weight: weight of the distance to the teacher's image.
        adversarial_weight: weight of the adversarial term; 0 leaves a regression, without a discriminator.
        augment: policy of `DiffAugment` for the distance, any of "translation" and "cutout"; "" for none.
        shuffled: the discriminator gets the noise of another image with each image: a control.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator; R1 of weight 0.1 every 16 steps when None.

    Raises:
        ValueError: no pairs, or fewer than classes; a sampler that adds noise; a negative weight or none at all; a
            denoiser of a source or of a latent z.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_pairs: int = 10_000,
        scheduler: str = "unipc",
        num_steps: int = 10,
        distance_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        augment: str = "translation,cutout",
        shuffled: bool = False,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_weights(distance_weight=distance_weight, adversarial_weight=adversarial_weight)
        if "color" in augment:
            raise ValueError(f"`augment={augment}`: a change of colour is no distance; use translation and cutout")
        middle_block(generator.net)
        opponent = discriminator if adversarial_weight > 0 else None
        bank = dict(num_pairs=num_pairs, scheduler=scheduler, num_steps=num_steps)
        super().__init__(generator, generator, opponent, **bank)  # type: ignore[arg-type]
        self.level = student_levels(generator, 1)
        self.distance_weight = distance_weight
        self.adversarial_weight = adversarial_weight
        self.augment = DiffAugment(policy=augment)
        self.shuffled = shuffled
        self.objective = objective or NonSaturating()
        self.penalties = [R1(weight=0.1, every=16)] if penalty is None else penalties_of(penalty)

    def rollout(self, batch: Batch) -> PairRollout:
        z, y, told = self.pairs(batch)
        t = self.level.to(z.device).expand(len(z))
        x = self.generator(per_image(self.generator.process.sigma(t), z) * z, t, told).x0
        if self.discriminator is None:
            return PairRollout(x, y, told)
        given = Given(labels=batch.labels, t=t, x_t=z.roll(1, 0) if self.shuffled else z, condition=told)
        return PairRollout(x, y, told, self.discriminator.views(y, x, given, batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: PairRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: PairRollout) -> Losses:
        losses: Losses = {}
        if self.distance_weight > 0:
            losses["distance"] = self.distance_weight * self.distance(batch, rollout).mean()
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        self.log(pair_error=(rollout.x - rollout.y).square().mean())
        return losses

    def distance(self, batch: Batch, rollout: PairRollout) -> Tensor:
        """[B] mean absolute difference plus that of the teacher's middle, both after the same random augmentation."""
        x, y = self.augment(torch.cat([rollout.x, rollout.y], 1), batch.draws).chunk(2, 1)
        clean = self.teacher.process.snap(torch.zeros(len(x), dtype=self.level.dtype, device=x.device))
        seen = middle_map(self.teacher, x, clean, rollout.condition)
        with torch.no_grad():
            target = middle_map(self.teacher, y, clean, rollout.condition)
        perceptual = (normalize(seen, dim=1) - normalize(target, dim=1)).square().sum(1).flatten(1).mean(1)
        return (x - y).abs().flatten(1).mean(1) + perceptual
