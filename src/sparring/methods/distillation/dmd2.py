"""DMD2: improved distribution matching distillation (Yin et al., arXiv 2405.14867).

Status: proven on digits at one call (1.33 in 200 steps) by its scores; its discriminator adds nothing, and four calls
are worse than UniPC's (docs/results/students.md).

A student of one to a few calls follows the difference of two scores, the frozen teacher's `T` and that of its own
images, which a fake score `psi` learns beside it; a discriminator on `psi`'s middle adds what the teacher gets wrong:

    x_t = alpha_t xhat + sigma_t eps,     g = (psi(x_t) - T(x_t)) / mean |xhat - T(x_t)|  of each image
    L_G   = 0.5 |xhat - sg(xhat - g)|^2 + adversarial_weight sp(-C(xhat)),                sp(u) = log(1 + e^u)
    L_psi = |psi - xhat|^2 in the network's own output + class_weight (sp(C(sg xhat)) + sp(-C(x_0)))

Fake: a call of the student from pure noise or, of several calls, from where its own calls before have led
(`own_steps`). C sees real and fake images noised at levels of their own. The student is updated first, then fake score
and head on the same images without their graph, and several times more on others (two time scales: the trainer's
`discriminator_updates`). psi and its head share one optimiser.

The order, levels, losses and weights are the paper's code's. Ours: the head's layers; the teacher's features as another
choice for it; the numbers of updates and the rates of the recipe; an average of the student, which the code has not.
"""

from typing import Literal

import torch

from sparring.data import Batch
from sparring.discriminators import generator_loss
from sparring.discriminators.middle_head import MiddleHead
from sparring.generators import Denoiser
from sparring.methods.method import Losses, check_not_negative, check_weights
from sparring.methods.score_student import ScoreRollout, ScoreStudent
from sparring.objectives import NonSaturating, Objective
from sparring.objectives.scores import distribution_matching
from sparring.process import Times, Uniform
from sparring.runs.choice import check_choice


class DMD2(ScoreStudent):
    """Distils a trained denoiser into a student of one or a few calls, by two scores and a discriminator.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        num_steps: network calls of the student at sampling time; more than 1 need a VP process or a flow.
        simulate: train cleaner calls from the student's own calls before them; False noises real images instead.
        score_weight: weight of the difference of scores; 0 leaves a GAN.
        adversarial_weight: weight of the adversarial term; 0 leaves plain distribution matching, without discriminator.
        class_weight: weight of the discriminator's own loss beside that of the fake score.
        features: of which network's middle the discriminator is a head: "fake score", which then learns from both
            losses, or "teacher", which is frozen.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        objective: adversarial loss; non-saturating when None.
        score_times: levels at which the scores are compared; uniform from 2% to 98% when None.
        times: levels at which fake score and discriminator learn; uniform over all of them when None.

    Raises:
        ValueError: a negative weight or none at all; several calls of EDM's process.
    """

    generator_first = True

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int = 1,
        simulate: bool = True,
        score_weight: float = 1.0,
        adversarial_weight: float = 3e-3,
        class_weight: float = 1e-2,
        features: Literal["fake score", "teacher"] = "fake score",
        guidance: float = 1.0,
        objective: Objective | None = None,
        score_times: Times | None = None,
        times: Times | None = None,
    ):
        check_weights(score_weight=score_weight, adversarial_weight=adversarial_weight)
        check_not_negative(class_weight=class_weight)
        check_choice("fake score", "teacher", features=features)
        common = dict(guidance=guidance, score_times=score_times, times=times or Uniform())
        super().__init__(generator, num_steps=num_steps, simulate=simulate, **common)  # type: ignore[arg-type]
        self.score_weight = score_weight
        self.adversarial_weight = adversarial_weight
        self.class_weight = class_weight
        self.objective = objective or NonSaturating()
        if adversarial_weight > 0:
            of = self.fake_score if features == "fake score" else self.teacher
            self.discriminator.head = MiddleHead(of, times=self.times)

    def rollout(self, batch: Batch) -> ScoreRollout:
        return self.shown(batch, self.images(batch))

    def discriminator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        noised = self.noised(batch, rollout.x_0.detach(), self.times)
        fake_score = self.fake_score_loss(batch, noised)
        return {"fake_score": fake_score} | self.head_terms(batch, rollout, self.objective, self.class_weight)

    def generator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        losses: Losses = {}
        if self.score_weight > 0:
            with torch.no_grad():
                noised = self.noised(batch, rollout.x_0, self.score_times)
                real, fake = self.estimates(batch, noised)
            self.log(score_difference=(real - fake).square().mean())
            losses["scores"] = self.score_weight * distribution_matching(rollout.x_0, real, fake)
        if (head := self.discriminator.head) is not None:
            losses["adversarial"] = self.adversarial_weight * generator_loss(head, rollout.views, self.objective)
        return losses
