"""ADD: adversarial diffusion distillation (Sauer et al., arXiv 2311.17042).

Status: proven at 1 and 2 NFE on digits (docs/results/add.md).

A few-step student, started from the trained model, is opposed by a discriminator on frozen features and pulled to the
one-step prediction of a frozen teacher:

    L_G = adversarial_weight * L_adv(xhat) + distillation_weight * c(t) |xhat - sg x_teacher(x_t, t)|^2
    L_D = L_adv(sg xhat, x_0) + gamma/2 R1 on the head inputs,        x_t = alpha_t sg xhat + sigma_t eps

Fake: one student prediction `xhat` from a real image noised to one of the student's levels. Those levels are the
timesteps that diffusers' LCMScheduler visits in `num_steps` calls, which is also how the student is sampled:
predict, noise again, predict. c(t) = alpha_t is one of the paper's forms; feature networks, weights and R1 strength are
settings (see docs/methods/add.md).
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, generator_loss
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, check_weights, frozen_copy
from sparring.objectives import R1, Hinge, Objective, Penalty, penalties_of
from sparring.process import Times
from sparring.rollout import DiscriminatorInput, OneStep, few_step, noise, real_and_fake
from sparring.rollout.flow_map import sampler_levels
from sparring.runs.choice import check_choice


@dataclass
class ADDRollout(OneStep):
    """A student's prediction, and what the discriminator sees of it and of the real images."""

    views: Views = field(default_factory=Views)


class ADD(Method):
    """Distils a trained denoiser into a few-step student.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        discriminator: the projected discriminator on frozen features, or any other; one that compares gets the real
            image from which the prediction was made.
        num_steps: network calls of the student at sampling time.
        adversarial_weight: weight of the adversarial term; 0 leaves only distillation (the control).
        distillation_weight: weight lambda of the teacher's term.
        r1_gamma: strength of R1 on the inputs of the discriminator's heads, each step; 0 switches it off.
        discriminator_input: what the discriminator sees as real if the denoiser works on latents: "decoded" latents, as
            the fakes are, or the "pixels" of the data.
        objective: adversarial loss; hinge when None.
        penalty: one penalty or several on the discriminator, beside that of `r1_gamma`.
        times: distribution of the teacher's noise level; the process's own when None.
    """

    generator: Denoiser
    sampler = "lcm"

    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 4,
        adversarial_weight: float = 1.0,
        distillation_weight: float = 2.5,
        r1_gamma: float = 0.0,
        discriminator_input: Literal["decoded", "pixels"] = "decoded",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
    ):
        check_choice("decoded", "pixels", discriminator_input=discriminator_input)
        check_weights(adversarial_weight=adversarial_weight, distillation_weight=distillation_weight)
        check_not_negative(r1_gamma=r1_gamma)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.teacher = frozen_copy(generator)
        self.sample_steps = num_steps
        sampler_levels(generator.process, self.sampler, num_steps, generator.prediction)  # are there any?
        self.adversarial_weight = adversarial_weight
        self.distillation_weight = distillation_weight
        self.discriminator_input: DiscriminatorInput = discriminator_input
        self.objective = objective or Hinge()
        self.penalties = penalties_of([*penalties_of(penalty), *([R1(weight=r1_gamma)] if r1_gamma > 0 else [])])
        self.times = times or generator.process.default_times()

    @property
    def levels(self) -> Tensor:
        """Times [num_steps] of the student's calls, falling."""
        process, prediction = self.generator.process, self.generator.prediction
        return sampler_levels(process, self.sampler, self.sample_steps, prediction)[1:].flip(0)

    def rollout(self, batch: Batch) -> ADDRollout:
        step = few_step(self.generator, batch, self.levels)
        if self.discriminator is None:
            return ADDRollout(step.noised, step.prediction)
        real, fake = real_and_fake(self.generator, batch, step.prediction.x0, self.discriminator_input)
        given = Given(labels=batch.labels, t=step.noised.t, x_t=step.noised.x_t, condition=batch.condition)
        return ADDRollout(step.noised, step.prediction, self.discriminator.views(real, fake, given, batch.draws, real))

    def discriminator_loss(self, batch: Batch, rollout: ADDRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: ADDRollout) -> Losses:
        losses: Losses = {}
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        if self.distillation_weight > 0:
            losses["distillation"] = self.distillation_weight * self.distillation(batch, rollout.prediction.x0)
        return losses

    def distillation(self, batch: Batch, x_0_pred: Tensor) -> Tensor:
        """Weighted squared distance of the student's image or latent to what the teacher makes of it after noising."""
        process = self.teacher.process
        student = replace(batch, x_0=x_0_pred.detach())
        with torch.no_grad():
            noised = noise(process, student, self.times(process, batch.draws, len(batch)))
            target = self.teacher(noised.x_t, noised.t, batch.condition).x0
        error = (x_0_pred - target).square().flatten(1).mean(1)
        return (process.alpha(noised.t) * error).mean()
