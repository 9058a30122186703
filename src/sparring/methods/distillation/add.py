"""ADD: adversarial diffusion distillation (Sauer et al., arXiv 2311.17042).

Status: proven at 1 and 2 NFE on digits (docs/results/add.md).

A few-step student, started from the trained model, is judged by a discriminator on frozen features and pulled to the
one-step prediction of a frozen teacher:

    L_G = adversarial_weight * L_adv(xhat) + distillation_weight * c(t) |xhat - sg x_teacher(x_t, t)|^2
    L_D = L_adv(sg xhat, x_0) + gamma/2 R1 on the head inputs,        x_t = alpha_t sg xhat + sigma_t eps

Fake: one student prediction `xhat` from a real image noised to one of the student's levels. Those levels are the
timesteps that diffusers' LCMScheduler visits in `num_student_steps` calls, which is also how the student is sampled:
predict, noise again, predict. c(t) = alpha_t is one of the paper's forms; feature networks, weights and R1 strength are
settings (see docs/methods/add.md).
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import ProjectedDiscriminator
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, frozen_copy
from sparring.objectives import Hinge, Objective, discriminator_statistics, r1_penalty
from sparring.process import Times, set_timesteps
from sparring.rollout import OneStep, few_step, noise


@dataclass
class Judged(OneStep):
    """A student's prediction and what the judge's frozen backbone makes of it and of the real images, once a step.

    Attributes:
        fake: feature maps of the prediction, with its graph; empty where nobody judges.
        real: of the real images.
    """

    fake: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)


class ADD(Method):
    """Distils a trained denoiser into a few-step student.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        discriminator: one-image judge on frozen features.
        num_student_steps: network calls of the student at sampling time.
        adversarial_weight: weight of the adversarial term; 0 leaves distillation alone (the control).
        distillation_weight: weight lambda of the teacher's term.
        r1_gamma: strength of R1 on the inputs of the discriminator's heads; 0 switches it off.
        objective: adversarial loss.
        times: distribution of the teacher's noise level; the process's own when None.
    """

    generator: Denoiser
    sampler = "lcm"

    def __init__(
        self,
        generator: Denoiser,
        discriminator: ProjectedDiscriminator,
        *,
        num_student_steps: int = 4,
        adversarial_weight: float = 1.0,
        distillation_weight: float = 2.5,
        r1_gamma: float = 0.0,
        objective: Objective | None = None,
        times: Times | None = None,
    ):
        weights = (adversarial_weight, distillation_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(
                "`adversarial_weight={}`, `distillation_weight={}`: 0 or more, not both 0".format(*weights)
            )
        check_not_negative(r1_gamma=r1_gamma)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.teacher = frozen_copy(generator)
        self.sample_steps = num_student_steps
        scheduler = generator.process.scheduler("lcm", generator.prediction)
        set_timesteps(scheduler, num_student_steps)
        self.levels = generator.process.t_from_model_time(scheduler.timesteps.float())
        self.adversarial_weight = adversarial_weight
        self.distillation_weight = distillation_weight
        self.r1_gamma = r1_gamma
        self.objective = objective or Hinge()
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> Judged:
        step = few_step(self.generator, batch, self.levels)
        if self.discriminator is None:
            return Judged(step.noised, step.prediction)
        with torch.no_grad():
            (real,) = self.judge.feature_maps([batch.images], batch.draws)
        (fake,) = self.judge.feature_maps([self.generator.decode(step.prediction.x0)], batch.draws)
        return Judged(step.noised, step.prediction, fake, real)

    @property
    def judge(self) -> ProjectedDiscriminator:
        assert isinstance(self.discriminator, ProjectedDiscriminator)
        return self.discriminator

    def discriminator_loss(self, batch: Batch, fake: Judged) -> Losses:
        maps_real = [maps.detach().requires_grad_(self.r1_gamma > 0) for maps in fake.real]
        logits_real = self.judge.logits_from_maps(maps_real, batch.labels)
        logits_fake = self.judge.logits_from_maps([maps.detach() for maps in fake.fake], batch.labels)
        self.log(**discriminator_statistics(logits_real, logits_fake))
        losses: Losses = {"adversarial": self.objective.discriminator(logits_real, logits_fake)}
        if self.r1_gamma > 0:
            losses["r1"] = 0.5 * self.r1_gamma * r1_penalty(logits_real, maps_real)
        return losses

    def generator_loss(self, batch: Batch, fake: Judged) -> Losses:
        x_0_pred = fake.prediction.x0
        losses: Losses = {}
        if self.discriminator is not None:
            seen = [fake.fake, fake.real] if self.objective.needs_real else [fake.fake]
            logits = [self.judge.logits_from_maps(maps, batch.labels) for maps in seen]
            losses["adversarial"] = self.adversarial_weight * self.objective.generator(*logits)
        if self.distillation_weight > 0:
            losses["distillation"] = self.distillation_weight * self.distillation(batch, x_0_pred)
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
