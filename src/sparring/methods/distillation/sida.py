"""SiDA: adversarial score identity distillation (Zhou et al., arXiv 2410.14919).

Status: no gain on digits over SiD: one call of 0.92 with the discriminator and without (docs/results/students.md).

SiD with real images, and with a discriminator that has no weights of its own: its logits `D` are the mean over the
channels of the map in the middle of the fake score psi, one for each place, within [-10, 10]:

    L_psi = |psi(x_t) - sg y|^2 + class_weight (sp(-D(x_t')) + sp(D(x_t))) / 2,       x_t' = alpha_t x_0 + sigma_t eps
    L_G   = L_SiD + adversarial_weight mean of sp(-D(x_t)) / sg mean |y - T(x_t)|,     sp(u) = log(1 + e^u)

Real and fake images have the same noise and level, and of these psi learns, too; the student is compared at others, as
in SiD, and its adversarial term is divided by the same distance of each image as its other loss.

Fake and order are those of SiD. Official code: a = 1, the map, its limits, the common noise, the normaliser, the ratio
0.01 of the student's terms (halves of both left out here). Ours: the discriminator's weight is a constant (in the code
it is EDM's weight of the level, with sums in place of means), and it acts from the first step (there, from 200 thousand
images on); what is ours in SiD.
"""

from torch.nn.functional import softplus

from sparring.data import Batch
from sparring.discriminators import MiddleHead
from sparring.generators import Denoiser
from sparring.methods.distillation.sid import SiD
from sparring.methods.method import Losses, check_not_negative
from sparring.methods.score_student import ScoreRollout
from sparring.objectives import NonSaturating, Scores
from sparring.objectives.scores import distance, score_identity
from sparring.process import Times


class SiDA(SiD):
    """Distils a trained denoiser into a student of one or a few calls, by a distance of two scores and real images.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        num_steps: network calls of the student at sampling time; more than 1 need a VP process or a flow.
        alpha: a, how much of the squared difference is taken off.
        adversarial_weight: weight of the adversarial term beside the distance of scores.
        class_weight: weight of the discriminator's loss beside that of the fake score, whose network it is.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        score_times: levels of the student's losses; uniform up to 80% of the way to noise when None.
        times: levels at which fake score and discriminator learn; the process's own when None.

    Raises:
        ValueError: a negative weight; several calls of EDM's process.
    """

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int = 1,
        alpha: float = 1.0,
        adversarial_weight: float = 0.01,
        class_weight: float = 0.01,
        guidance: float = 1.0,
        score_times: Times | None = None,
        times: Times | None = None,
    ):
        check_not_negative(adversarial_weight=adversarial_weight, class_weight=class_weight)
        super().__init__(
            generator,
            num_steps=num_steps,
            alpha=alpha,
            guidance=guidance,
            score_times=score_times,
            times=times,
        )
        self.discriminator.head = MiddleHead(self.fake_score, width=0)
        self.adversarial_weight = adversarial_weight
        self.class_weight = class_weight
        self.objective = NonSaturating()

    @property
    def head(self) -> MiddleHead:
        assert self.discriminator.head is not None
        return self.discriminator.head

    def discriminator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        given = self.given(batch)
        noised = self.noised(batch, rollout.x_0.detach(), self.times)
        x_t_real = self.generator.process.add_noise(batch.x_0, noised.eps, noised.t)
        real, fake = (Scores(self.head.logits([x_t, noised.t], given)) for x_t in (x_t_real, noised.x_t))
        self.log(**self.objective.statistics(real, fake))
        adversarial = 0.5 * self.class_weight * self.objective.discriminator(real, fake)
        return {"fake_score": self.fake_score_loss(batch, noised), "adversarial": adversarial}

    def generator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        noised = self.noised(batch, rollout.x_0, self.score_times)
        real, fake = self.estimates(batch, noised)
        self.log(score_difference=(real - fake).square().mean())
        logits = self.head.logits([noised.x_t, noised.t], self.given(batch))
        adversarial = softplus(-logits).mean(1) / distance(rollout.x_0, real).flatten()
        return {
            "scores": score_identity(rollout.x_0, real, fake, self.alpha),
            "adversarial": self.adversarial_weight * adversarial.mean(),
        }
