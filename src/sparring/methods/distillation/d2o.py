"""D2O: diffusion models as one-step GANs (arXiv 2506.09376).

Status: proven; one call has 0.55 on digits, and 0.445 from pairs at a low rate, the teacher 0.451 at its best and ADD
1.10; on Fashion-MNIST 0.89 from pairs, the teacher 0.71 (docs/results/students.md).

A trained denoiser can already make an image in one call, and a GAN without any teacher brings it out:

    G(z) = xhat_0(sigma_1 z, 1),        z ~ N(0, I),        sp(u) = log(1 + e^u)
    L_D = mean sp(D(G(z))) + mean sp(-D(x)) + gamma/2 |grad_x D(x)|^2,        L_G = mean sp(-D(G(z)))

Fake: one call from pure noise. Discriminator: heads on a frozen backbone, as in Projected GAN. R1 is taken every 16th
step, 16 times as strong, through the backbone down to the pixels. D2O-F freezes most weights of the denoiser,
`--denoiser.tuning FreezeConvolutions`; the rule is that of the official program.

Ours: one backbone (the paper has two); R1 of the mean logit; the discriminator goes first and both see the same noise;
several calls, each from where the student's own have led, sampled with LCM; rates and sizes. The paper's networks are
EDM's.
"""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator
from sparring.generators import Denoiser
from sparring.methods.adversarial_student import AdversarialStudent, StudentRollout
from sparring.methods.method import Losses, check_not_negative
from sparring.networks.derivatives import differentiable
from sparring.objectives import NonSaturating, Objective, Penalty, r1_penalty
from sparring.rollout import DiscriminatorInput


class D2O(AdversarialStudent):
    """Turns a trained denoiser into a generator of one call, by a GAN only.

    Args:
        generator: a trained denoiser.
        discriminator: heads on frozen features, or any other that looks at single images.
        num_steps: network calls of an image.
        simulate: of several calls, train the cleaner ones from the student's own calls before them; False noises real
            images instead.
        r1_gamma: strength of R1 at the pixels; 0 switches it off.
        r1_every: steps from one computation to the next, each of which counts as often.
        discriminator_input: what the discriminator sees if the denoiser works on latents: "decoded" latents, real ones
            as well as fakes, or the "pixels" of the data beside decoded fakes.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator, beside R1 at the pixels.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 1,
        simulate: bool = True,
        r1_gamma: float = 1e-4,
        r1_every: int = 16,
        discriminator_input: DiscriminatorInput = "decoded",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(r1_gamma=r1_gamma)
        if r1_every < 1:
            raise ValueError(f"`r1_every={r1_every}` must be at least 1")
        super().__init__(
            generator,
            discriminator,
            num_steps=num_steps,
            simulate=simulate,
            objective=objective or NonSaturating(),
            penalty=penalty,
            discriminator_input=discriminator_input,
        )
        self.r1_gamma, self.r1_every = r1_gamma, r1_every

    def discriminator_loss(self, batch: Batch, rollout: StudentRollout) -> Losses:
        losses = super().discriminator_loss(batch, rollout)
        if self.r1_gamma > 0 and self.step % self.r1_every == 0:
            losses["pixel_r1"] = lambda: 0.5 * self.r1_gamma * self.r1_every * self.pixel_r1(batch, rollout)
        return losses

    def pixel_r1(self, batch: Batch, rollout: StudentRollout) -> Tensor:
        """Mean squared norm of the gradient of an image's mean logit at its pixels, through the frozen features."""
        x = rollout.real.detach().requires_grad_()
        with torch.enable_grad(), differentiable():
            logits = self.discriminator(x, rollout.views.given, batch.draws)
            return r1_penalty(logits.flatten(1).mean(1), x)
