"""Progressive: distillation in rounds that halve the number of calls (Salimans and Ho, arXiv 2202.00512).

Status: proven on digits: its rounds make one call of 1.78, 5.52 without them; four calls are what UniPC has
(docs/results/students.md).

A student of N calls learns to make in one DDIM step what its teacher makes in two, from t over the middle m to s:

    x_m = ddim(x_t, T),        x_s = ddim(x_m, T)
    xhat* = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t),        L = w(t) |xhat* - xhat|^2

xhat* is the image whose single step from x_t ends at x_s; in the last step, s = 0, it is the teacher's image at m. The
levels are those of the student's sampler. When a round ends the student becomes the teacher, and N is halved: from
`first_steps` to `last_steps` in one run. If the student is a copy of a teacher whose steps are exact, it has no loss.

There is no discriminator unless one is given (ours): then xhat is its fake. w = max(SNR, 1), the paper's; SNR + 1 is
its other one. Rounds of equal length and one rate for the whole run are ours: the paper's rate falls in each round, and
its last round is twice as long.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import Denoiser
from sparring.methods.method import Losses, moving_copy
from sparring.methods.opposed import Opposed
from sparring.objectives import Objective, Penalty
from sparring.process import EDM, TruncatedSNR, Weighting
from sparring.rollout import Noised, noise
from sparring.rollout.ode_step import check_guidance, ddim, guided, image_of_step


@dataclass
class ProgressiveStep:
    """Noised images, the student's prediction of the clean ones, and what it should be, both [B, C, H, W]; and what a
    discriminator sees, if there is one."""

    noised: Noised
    image: Tensor
    target: Tensor
    views: Views = field(default_factory=Views)


class Progressive(Opposed):
    """Halves the network calls of a trained denoiser, round by round.

    Args:
        generator: a trained denoiser, the teacher of the first round; not of the EDM process.
        discriminator: tells xhat from the images; none by default. One that compares gets the image itself.
        first_steps: network calls of the student in the first round.
        last_steps: and in the last; `first_steps` is `last_steps` times a power of 2.
        guidance: scale of classifier-free guidance of the first teacher; 1 is none.
        weighting: weight of the squared error of the clean image over log-SNR; max(SNR, 1) when None.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        first_steps: int = 8,
        last_steps: int = 1,
        guidance: float = 1.0,
        weighting: Weighting | None = None,
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        rounds = [last_steps]
        while 0 < rounds[0] < first_steps:
            rounds.insert(0, 2 * rounds[0])
        if rounds[0] != first_steps or last_steps < 1:
            raise ValueError(
                f"`first_steps={first_steps}` must be `last_steps={last_steps}` (at least 1) times 1, 2, 4, 8 …"
            )
        if isinstance(generator.process, EDM):
            raise ValueError("`process=EDM`: of its samplers' grids none is a half of another; use VP or a flow")
        check_guidance(generator, guidance)
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, **opponent)  # type: ignore[arg-type]
        self.teacher = moving_copy(generator)
        self.rounds = rounds
        self.sample_steps = last_steps
        self.guidance = guidance
        self.weighting = weighting or TruncatedSNR()
        self.register_buffer("round", torch.zeros((), dtype=torch.int64))
        self.round: Tensor

    def rollout(self, batch: Batch) -> ProgressiveStep:
        student, teacher, number = self.generator, self.teacher.module, int(self.round)
        num_steps, guidance = self.rounds[number], 1.0 if number else self.guidance
        index = batch.draws.integers(num_steps, (len(batch),)).double()
        t, m, s = (self.level((index + end) / num_steps) for end in (1, 0.5, 0))
        noised = noise(student.process, batch, t)
        x_m = ddim(guided(teacher, noised.x_t, t, batch.condition, guidance), m)
        x_s = ddim(guided(teacher, x_m, m, batch.condition, guidance), s)
        image = student(noised.x_t, t, batch.condition).x0
        self.log(calls=float(num_steps))
        target = image_of_step(student.process, noised.x_t, x_s, t, s)
        return ProgressiveStep(noised, image, target, self.seen(batch, noised, image))

    def discriminator_loss(self, batch: Batch, rollout: ProgressiveStep) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def level(self, u: Tensor) -> Tensor:
        """The times [B] of shares u [B] of a sampler's grid, shifted towards noise as the process says."""
        shift = self.generator.process.shift
        return (shift * u / (1 + (shift - 1) * u)).float()

    def generator_loss(self, batch: Batch, rollout: ProgressiveStep) -> Losses:
        error = (rollout.image - rollout.target).square().flatten(1).mean(1)
        log_snr = self.generator.process.log_snr(rollout.noised.t)
        return {"distillation": self.weighting.combine(error, log_snr).mean()} | self.adversarial(rollout.views)

    def after_step(self) -> None:
        due = len(self.rounds) * (self.step + 1) // self.steps
        if self.round < due < len(self.rounds):
            self.teacher.refreeze(self.generator)
            self.round += 1
