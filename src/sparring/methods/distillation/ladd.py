"""LADD: latent adversarial diffusion distillation (Sauer et al., arXiv 2403.12015).

Status: proven on digits at one and two calls, over plain training at its best sampler; worse at four, and behind D2O,
APT and ADD (docs/results/students.md).

Heads on what a frozen teacher sees in noised images, or latents, tell those of a few-step student from real ones:

    x_t = alpha_t x + sigma_t eps,        D(x) = heads(teacher(x_t, t)),        t ~ p(t)
    L_D = mean sp(D(G)) + mean sp(-D(x)) + weight mean (D(x_t + alpha_t s n) - D(x_t))^2,        L_G = mean sp(-D(G))

At high noise the discriminator decides on structure, at low noise on detail; p(t) leans towards noise. There is no
decoder and no distillation loss. Fake: a prediction at one of the student's levels, of which the noisiest is pure
noise. Discriminator: `DenoiserHeads`. The last term stands for R1, without a second derivative: the image is perturbed
by s n, and both are noised with the same eps and t.

From summaries of the paper and independent programs: the non-saturating loss, t = sigmoid(1 + n), the last term. Ours:
real images (the paper has latents that the teacher made), which blocks are read, the form of the heads, one update of
each player a step.
"""

from dataclasses import replace

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import DenoiserHeads, Given
from sparring.generators import Denoiser
from sparring.methods.adversarial_student import AdversarialStudent, StudentRollout
from sparring.methods.method import Losses, check_not_negative
from sparring.objectives import NonSaturating, Objective
from sparring.process import LogitNormal, Times, per_image


class LADD(AdversarialStudent):
    """Distils a trained denoiser into a few-step student, by a discriminator on the teacher's features.

    Args:
        generator: a trained denoiser; its state at the start is the teacher.
        num_steps: network calls of the student.
        width: channels of the heads.
        smooth_weight: weight of the squared change of the logits under a perturbation of the images; 0: none.
        smooth_std: size s of this perturbation.
        objective: adversarial loss; non-saturating when None.
        times: distribution of the discriminator's noise level; sigmoid(1 + n), n normal, when None.
    """

    def __init__(
        self,
        generator: Denoiser,
        *,
        num_steps: int = 4,
        width: int = 64,
        smooth_weight: float = 0.1,
        smooth_std: float = 0.1,
        objective: Objective | None = None,
        times: Times | None = None,
    ):
        check_not_negative(smooth_weight=smooth_weight)
        if not smooth_std > 0:
            raise ValueError(f"`smooth_std={smooth_std}` must be above 0")
        super().__init__(
            generator,
            DenoiserHeads(generator, width=width),
            num_steps=num_steps,
            objective=objective or NonSaturating(),
            penalty=None,
            discriminator_input="latents",
        )
        self.smooth_weight, self.smooth_std = smooth_weight, smooth_std
        self.times = times or LogitNormal(logit_mean=1.0, logit_std=1.0)

    def given(self, batch: Batch) -> Given:
        """Labels and condition, and the noise level at which an image and the fake of its row are seen."""
        return replace(super().given(batch), t=self.times(self.generator.process, batch.draws, len(batch)))

    def discriminator_loss(self, batch: Batch, rollout: StudentRollout) -> Losses:
        losses = super().discriminator_loss(batch, rollout)
        if self.smooth_weight > 0:
            losses["smooth"] = lambda: self.smooth_weight * self.squared_changes(batch, rollout)
        return losses

    def squared_changes(self, batch: Batch, rollout: StudentRollout) -> Tensor:
        """Mean squared change of the logits of noised images if these move by normal noise of `smooth_std`."""
        (x_t,), given = rollout.views.real, rollout.views.given
        assert given.t is not None
        step = self.smooth_std * batch.draws.normal(x_t.shape).to(x_t)
        moved = x_t + per_image(self.generator.process.alpha(given.t), x_t) * step
        return (self.discriminator.logits([moved], given) - self.discriminator.logits([x_t], given)).square().mean()
