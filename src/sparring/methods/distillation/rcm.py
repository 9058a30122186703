"""rCM: score-regularized continuous-time consistency models (Zheng et al., arXiv 2510.08431).

Status: proven on digits: both terms are ahead of each alone; three seeds (docs/results/students.md).

sCM covers all modes of the teacher and blurs, the difference of two scores is sharp and drops modes. rCM minimises
both. In TrigFlow's coordinates (see sCM), with F' that of the teacher and rho rising from 0 to 1,

    g   = cos a (sqrt(1 - rho^2 sin^2 a) - rho cos a) s (F' - F) + rho cos a df/da
    L_G = consistency_weight mean |F - sg F - g / (rms(g) + 0.1)|^2 + score_weight L_DM(xhat),     L_DM that of DMD2
    L_psi = |psi(x_t) - xhat|^2 in the network's own output

At rho = 0 this pulls F to the teacher's; at rho = 1, g is that of sCM. L_DM begins when rho is 1.

Fake: the last of 1 to num_steps calls of the student from pure noise, at random falling times (`falling_steps`). The
opponent is the fake score psi, which learns several times for each update of the student. There is no discriminator
unless `adversarial_weight` is above 0 (ours): then it is DMD2's, a head on psi's middle; its term begins with L_DM.

g, rollout and losses are the official code's. It sums over the numbers of a latent and has the weights 100 and 1; in
means, as here, that is a ratio of about 0.1 for its latents of a million numbers. Ours: this form and the weights; psi
learns from the first step on; df/da as a difference (see sCM); times uniform, unshifted; rates and lengths.
"""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import generator_loss
from sparring.discriminators.middle_head import MiddleHead
from sparring.generators import Denoiser
from sparring.methods.method import Losses, check_not_negative
from sparring.methods.score_student import ScoreRollout, ScoreStudent
from sparring.objectives import NonSaturating, Objective
from sparring.objectives.scores import distribution_matching
from sparring.process import Times
from sparring.rollout import falling_steps, noise
from sparring.rollout.ode_step import check_clean_end, guided
from sparring.rollout.trigflow import Derivative, TrigFlow, moved


class RCM(ScoreStudent):
    """Distils a trained denoiser into a student of one to a few calls, by consistency and by two scores.

    Args:
        generator: a trained denoiser of a VP process or a flow; its state at the start is the teacher.
        num_steps: calls of the longest chain from which the fake is taken.
        consistency_weight: of sCM's term; 0 leaves the scores.
        score_weight: of the difference of scores; without it there is sCM.
        adversarial_weight: of the adversarial term; 0: there is no discriminator.
        class_weight: of the discriminator's own loss beside that of the fake score.
        objective: adversarial loss; non-saturating when None.
        data_std: s, the deviation of the data.
        warmup: share of the run over which rho rises, and before which the scores wait; below 1.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        derivative: how df/da is computed, see sCM.
        interval: of the difference, to the cleaner side, in the process's time.
        consistency_times: levels of sCM's term; the process's own when None.
        score_times: levels at which the scores are compared, and of the fake's later calls; uniform from 2% to 98% when
            None.
        times: levels at which fake score and discriminator learn; the process's own when None.

    Raises:
        ValueError: EDM's process; in `check`, a network of x_0; a weight out of range.
    """

    generator_first = True

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int = 4,
        consistency_weight: float = 1.0,
        score_weight: float = 1.0,
        adversarial_weight: float = 0.0,
        class_weight: float = 1e-2,
        objective: Objective | None = None,
        data_std: float = 1.0,
        warmup: float = 0.1,
        guidance: float = 1.0,
        derivative: Derivative = "difference",
        interval: float = 0.02,
        consistency_times: Times | None = None,
        score_times: Times | None = None,
        times: Times | None = None,
    ):
        check_not_negative(
            consistency_weight=consistency_weight, adversarial_weight=adversarial_weight, class_weight=class_weight
        )
        if not 0 <= warmup < 1:
            raise ValueError(f"`warmup={warmup}` must be a share of the run, 0 or more and below 1")
        if score_weight <= 0:
            raise ValueError(f"`score_weight={score_weight}` must be above 0; without the scores it is `scm`")
        common = dict(guidance=guidance, score_times=score_times, times=times)
        super().__init__(generator, num_steps=num_steps, simulate=True, **common)  # type: ignore[arg-type]
        self.sampler = "lcm"
        generator.process.scheduler(self.sampler, generator.prediction)
        self.trigflow = TrigFlow(generator.process, data_std=data_std, derivative=derivative, interval=interval)
        self.consistency_weight, self.score_weight, self.warmup = consistency_weight, score_weight, warmup
        self.adversarial_weight, self.class_weight = adversarial_weight, class_weight
        self.objective = objective or NonSaturating()
        if adversarial_weight > 0:
            self.discriminator.head = MiddleHead(self.fake_score, times=self.times)
        self.consistency_times = consistency_times or generator.process.default_times()

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        check_clean_end(self.generator)

    def rollout(self, batch: Batch) -> ScoreRollout:
        return self.shown(batch, falling_steps(self.generator, batch, self.score_times, self.sample_steps).x0)

    def discriminator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        noised = self.noised(batch, rollout.x_0.detach(), self.times)
        fake_score = self.fake_score_loss(batch, noised)
        return {"fake_score": fake_score} | self.head_terms(batch, rollout, self.objective, self.class_weight)

    def generator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        losses: Losses = {}
        if self.consistency_weight > 0:
            losses["consistency"] = lambda: self.consistency_weight * self.consistency(batch)
        if self.step >= self.warmup_steps or not losses:
            losses["scores"] = self.score_weight * self.matching(batch, rollout)
            if (head := self.discriminator.head) is not None:
                losses["adversarial"] = self.adversarial_weight * generator_loss(head, rollout.views, self.objective)
        return losses

    @property
    def warmup_steps(self) -> int:
        """Steps before which the scores wait."""
        return round(self.warmup * self.steps)

    def consistency(self, batch: Batch) -> Tensor:
        """sCM's term on noised real images, mean squared distance of F to where it is pulled."""
        process = self.generator.process
        noised = noise(process, batch, self.consistency_times(process, batch.draws, len(batch)))
        shown = guided(self.teacher, noised.x_t, noised.t, batch.condition, self.guidance)
        at = self.trigflow.along(self.generator, batch, noised, shown.x0, shown.eps)
        rho = self.ramp(self.warmup_steps)
        pull = at.cos * ((1 - (rho * at.sin).square()).sqrt() - rho * at.cos)
        tangent = pull * at.missing + rho * at.cos * at.slope
        self.log(tangent=tangent.square().mean().sqrt(), rho=rho)
        return (at.output - moved(at.output, tangent)).square().mean()

    def matching(self, batch: Batch, rollout: ScoreRollout) -> Tensor:
        """DMD's term on the student's images, noised."""
        with torch.no_grad():
            noised = self.noised(batch, rollout.x_0, self.score_times)
            real, fake = self.estimates(batch, noised)
        self.log(score_difference=(real - fake).square().mean())
        return distribution_matching(rollout.x_0, real, fake)
