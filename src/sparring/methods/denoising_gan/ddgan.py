"""DDGAN: tackling the generative learning trilemma with denoising diffusion GANs (Xiao et al., arXiv 2112.07804).

Status: proven on 25 modes in the plane, in three seeds (docs/results/gans.md).

With T = 2 or 4 large steps the reverse kernel q(x_s | x_t) has many modes. It is learned by a conditional GAN:

    x_s ~ q(x_s | x_0), x_t ~ q(x_t | x_s),        xhat = G(x_t, t, z),        x_s' ~ q(x_s | x_t, xhat)
    L_D = sp(-D(x_s, x_t, t)) + sp(D(x_s', x_t, t)) + gamma/2 R1 in x_s,        L_G = sp(-D(x_s', x_t, t))

Fake: a draw of the cleaner neighbour x_s' from the Gaussian posterior of the predicted image; z makes the prediction
one of many. Discriminator: any that takes x_t and t beside x_s. The levels are those that diffusers' DDPMScheduler
visits in T steps, so that sampling walks the same chain with a new z in each step. In the paper the losses of the two
players have levels, pairs and z of their own; here they share them, as all methods do. The place of z is ours
(`LatentSlot`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import (
    Discriminator,
    Given,
    Views,
    check_single,
    check_told,
    fields_of,
    generator_loss,
)
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Losses, Method
from sparring.metrics.outliers import outlier_share
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.rollout import PosteriorStep, posterior_step
from sparring.rollout.flow_map import sampler_levels
from sparring.runs.field import Field

NUM_MEASURED = 500


@dataclass
class DDGANRollout:
    """One step of the chain, and what the discriminator sees of it."""

    step: PosteriorStep
    views: Views


class DDGAN(Method):
    """A denoiser of a few steps, trained from scratch or from a trained start.

    Args:
        generator: a denoiser of a VP process, with `latent_dim` above 0.
        discriminator: of a step: one that is given t and x_t, such as a `PlainDiscriminator` on a `ConvDiscriminator`.
        num_steps: T, the steps of the chain, and network calls of an image.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    generator: Denoiser
    discriminator: Discriminator
    sampler = "ddpm"

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 4,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_single(discriminator)
        check_told(discriminator, generator.takes_labels)
        super().__init__(generator, discriminator)
        self.levels = sampler_levels(generator.process, self.sampler, num_steps, generator.prediction)
        self.sample_steps = num_steps
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    def rollout(self, batch: Batch) -> DDGANRollout:
        step = posterior_step(self.generator, batch, self.levels)
        cost = (step.prediction.x0 - step.x_t).square().flatten(1).sum(1)
        given = Given(labels=batch.labels, t=step.t, x_t=step.x_t, condition=batch.condition, cost=cost)
        return DDGANRollout(step, self.discriminator.views(step.x_s_real, step.x_s_fake, given, batch.draws))

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`outlier_share` of 500 samples, if the data has known outliers."""
        known = data.clean_and_foreign(NUM_MEASURED)
        if known is None:
            return {}
        images = generator.sample(NUM_MEASURED, self.sample_steps, scheduler=self.sampler, seed=draws.seed)
        return {"outlier_share": outlier_share(images, *known)}

    def discriminator_loss(self, batch: Batch, rollout: DDGANRollout) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: DDGANRollout) -> Losses:
        return {"adversarial": generator_loss(self.discriminator, rollout.views, self.objective)}

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """At up to four of the chain's times, each with the first point noised to it by the same noise."""
        x_0, eps = batch.x_0[:1], batch.draws.normal(tuple(batch.x_0.shape)).to(batch.x_0)[:1]
        labels = None if batch.labels is None else batch.labels[:1]
        last = len(self.levels) - 1
        chosen = torch.linspace(1, last, min(last, 4)).round().long()
        givens = {}
        for t in self.levels[chosen].to(x_0):
            x_t = self.generator.process.add_noise(x_0, eps, t[None])
            givens[f"t = {t:.2f}"] = Given(labels=labels, t=t[None], x_t=x_t)
        return fields_of(self.discriminator, givens, points, batch.x_0)
