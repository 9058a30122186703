"""DifAugGAN: diffusion-style data augmentation for GAN-based super-resolution (Niu et al., arXiv 2311.18508).

Status: no gain; 0.42 with noised inputs, 0.43 without, no better calibrated (docs/results/gans.md).

Discriminators of super-resolution GANs are badly calibrated: they are surer than they are right. Here both kinds of
their inputs are noised as in a diffusion:

    xhat = G(eps, source),   y = sqrt(abar_t) x + sqrt(1 - abar_t) s eps',   t = 0 for half of the rows, else 1..T
    L_D = mean sp(-D(y)) + mean sp(D(y_fake)) + penalties,     L_G = a mean |xhat - x| + b mean sp(-D(y_fake))

Fake: one call of a denoiser at its noisiest level, conditioned on the low-resolution source, so that diffusion models
with the very same network can be compared with it. Discriminator: any, in the recipe `Diffused` around one of single
images, which is where the noise is; gradient passes through it. From the paper's abstract: the diagnosis, and the noise
on both sides as a plug-in. Only the abstract was read: the formulas, the weights, T = 200, s = 0.5 and the noise as
input are ours, and a distance in features, which such GANs also have, is left out.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views, check_single, generator_loss
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.metrics.calibration import calibration_error
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.process import VP
from sparring.rollout import check_begins_in_noise
from sparring.rollout.flow_map import sampler_levels


@dataclass
class SuperResolved:
    """Images [B, C, H, W] made of the sources of a batch, and what the discriminator sees."""

    images: Tensor
    views: Views = field(default_factory=Views)


class DifAugGAN(Method):
    """A denoiser that is conditioned on a source image, trained to make an image of it in one call.

    Args:
        generator: a denoiser of a VP process in pixel space, whose network takes a source (`SourceUNet`).
        discriminator: of single images, such as `Diffused` around a `PlainDiscriminator`.
        reconstruction_weight: a, of the mean absolute error to the true image.
        adversarial_weight: b; 0 leaves the discriminator out, and regression remains.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: weights that leave nothing to learn; a denoiser without a source, of another process, in latents, or
            whose samples begin from a density of its own; a discriminator of pairs.
    """

    generator: Denoiser
    discriminator: Discriminator | None
    sample_steps = 1

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        reconstruction_weight: float = 1.0,
        adversarial_weight: float = 0.05,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(reconstruction_weight=reconstruction_weight, adversarial_weight=adversarial_weight)
        if reconstruction_weight == adversarial_weight == 0:
            raise ValueError("`reconstruction_weight=0`, `adversarial_weight=0`: one of them must be above 0")
        if not generator.takes_source:
            raise ValueError(
                f"{type(generator.net).__name__} takes no source image: use --on digits-x2 or fashion16-x2, or a "
                "network such as sparring.networks.SourceUNet"
            )
        if not isinstance(generator.process, VP) or generator.space is not None:
            raise ValueError("DifAugGAN needs a denoiser of a VP process that works on pixels")
        check_begins_in_noise(generator)
        check_single(discriminator)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.level = float(sampler_levels(generator.process, self.sampler, 1, generator.prediction)[1])
        self.reconstruction_weight = reconstruction_weight
        self.adversarial_weight = adversarial_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    def rollout(self, batch: Batch) -> SuperResolved:
        images = self.in_one_call(self.generator, batch)
        if self.discriminator is None:
            return SuperResolved(images)
        given = Given(labels=batch.labels, condition=batch.condition)
        return SuperResolved(images, self.discriminator.views(batch.images, images, given, batch.draws))

    def in_one_call(self, generator: Denoiser, batch: Batch) -> Tensor:
        """What the sampler makes of noise in one step: the predicted image [B, C, H, W] at its only level."""
        noise = batch.draws.normal(tuple(batch.x_0.shape)).to(batch.x_0)
        return generator(noise, torch.full_like(noise[:, 0, 0, 0], self.level), batch.condition).x0

    def discriminator_loss(self, batch: Batch, rollout: SuperResolved) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: SuperResolved) -> Losses:
        losses: Losses = {}
        if self.reconstruction_weight > 0:
            error = (rollout.images - batch.images).abs().mean()
            losses["reconstruction"] = self.reconstruction_weight * error
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        return losses

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """The discriminator's calibration error on held-out images and what is made of their sources, both clean."""
        if self.discriminator is None:
            return {}
        assert isinstance(generator, Denoiser)
        batch = generator.embed(held_out(data, draws))
        given = Given(labels=batch.labels)
        real, fake = (
            next(iter(self.discriminator.field(x, given).values()))
            for x in (batch.images, self.in_one_call(generator, batch))
        )
        return {"calibration_error": calibration_error(real, fake)}
