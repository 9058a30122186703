"""SiD: score identity distillation (Zhou et al., arXiv 2404.04057).

Status: proven on digits at one call: 0.92 in 300 steps, 1.31 of DMD2's scores in 200 (docs/results/students.md).

A student of one call without any data: the frozen teacher `T` knows the data's score, a fake score `psi` learns that of
the student's images, and the student minimises a form of the distance of both scores:

    x_t = alpha_t y + sigma_t eps,  y = G(sigma_1 z),       d = T(x_t) - psi(x_t)
    L_G   = mean of d ((T(x_t) - y) - a d) / sg mean |y - T(x_t)|,   with the gradient through both networks into y
    L_psi = |psi(x_t) - sg y|^2 in the network's own output

If psi is exact, the first product is the squared distance `d^2` in expectation, in a form that needs no gradient of psi
in its weights; a = 1 leaves the expected value 0 and the slope of a shift the same.

Fake: one call from pure noise. There is no discriminator (see SiDA); psi is the opponent and learns first, then the
student, one update each. a, levels, order and losses are the official code's. Ours: both updates share their noise z
there (fresh in the code); the student starts at the sampler's noisiest level (sigma 2.5 in the code, which no stock
sampler starts from); several calls, as in DMD2; the rates of the recipe.
"""

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses
from sparring.methods.score_student import ScoreRollout, ScoreStudent
from sparring.objectives.scores import score_identity
from sparring.process import Times, Uniform


class SiD(ScoreStudent):
    """Distils a trained denoiser into a student of one or a few calls, by a distance of two scores; without data.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        num_steps: network calls of the student at sampling time; more than 1 need a VP process or a flow.
        alpha: a, how much of the squared difference is taken off.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        score_times: levels at which the scores are compared; uniform up to 80% of the way to noise when None.
        times: levels at which the fake score learns; the process's own when None.

    Raises:
        ValueError: several calls of EDM's process.
    """

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int = 1,
        alpha: float = 1.2,
        guidance: float = 1.0,
        score_times: Times | None = None,
        times: Times | None = None,
    ):
        super().__init__(
            generator,
            num_steps=num_steps,
            simulate=True,
            guidance=guidance,
            score_times=score_times or Uniform(high=0.8),
            times=times,
        )
        self.alpha = alpha

    def rollout(self, batch: Batch) -> ScoreRollout:
        return ScoreRollout(self.images(batch))

    def discriminator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        noised = self.noised(batch, rollout.x_0.detach(), self.times)
        return {"fake_score": self.fake_score_loss(batch, noised)}

    def generator_loss(self, batch: Batch, rollout: ScoreRollout) -> Losses:
        real, fake = self.estimates(batch, self.noised(batch, rollout.x_0, self.score_times))
        self.log(score_difference=(real - fake).square().mean())
        return {"scores": score_identity(rollout.x_0, real, fake, self.alpha)}
