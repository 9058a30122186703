"""Consistency: models that predict the end of a path in one call (Song et al., arXiv 2303.01469).

Status: proven on digits at one and two calls over the best sampler, worse at four; a discriminator adds nothing
(docs/results/students.md).

The prediction of the clean image, f(x_t, t), is to be the same all along a path of the ODE. It is pulled to its own,
without gradient, at a cleaner level r of the same path. On the schedule of ECT (arXiv 2406.14548), the jump from t to r
shrinks in stages k = 0, 1 …:

    r = t - t (1 - q) (1 + 8 sigmoid(-t)), at least 0,      q = 1 - 2^-(k+1)        (t, r: noise-to-signal ratios)
    L = w(t) / (t - r) (sqrt(|f(x_t, t) - sg f(x_r, r)|^2 + c^2) - c),             f(x_0, 0) = x_0

x_r is one Euler step of a frozen teacher (distillation), or has the image and the noise of x_t (training, which needs
no teacher). The first stage jumps to 0 at low noise: there it is denoising, and distillation of the teacher itself.

Both passes of f have the same dropout mask; there is no average target. There is no discriminator unless one is given
(ours, with the weight 0.1): then f(x_t, t) is its fake. The papers have w = 1. Ours is w = 1 + t: in a short run the
gradient of the noisiest levels, at which a one-call student starts, would be lost. ECT has stages of equal numbers of
images, here they divide the run evenly. Sampling is that of the papers: predict, noise again, predict (LCMScheduler).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import Denoiser
from sparring.methods.consistency_model import ConsistencyModel
from sparring.methods.method import Losses
from sparring.networks.modes import same_dropout
from sparring.objectives import Objective, Penalty
from sparring.process import Times, per_image


@dataclass
class ConsistencyStep:
    """The student's image at t, what it is pulled to, [B, C, H, W], both noise-to-signal ratios [B], and what a
    discriminator sees, if there is one."""

    image: Tensor
    target: Tensor
    t: Tensor
    r: Tensor
    views: Views = field(default_factory=Views)


class Consistency(ConsistencyModel):
    """Makes a student of one or a few calls, from a trained denoiser.

    Args:
        generator: a trained denoiser of a VP process or a flow; its state at the start is the teacher.
        discriminator: tells f(x_t, t) from the images; none by default. One that compares gets the image itself.
        distil: x_r is a step of the teacher; without, it has the noise of x_t, and there is no teacher.
        stages: how often the jump is halved, plus one.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        huber: c, below which the distance is a squared one.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
        times: distribution of the noise level; the process's own when None.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        distil: bool = True,
        stages: int = 8,
        guidance: float = 1.0,
        huber: float = 1e-8,
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
    ):
        if not 1 <= stages <= 20 or huber <= 0:
            raise ValueError(f"`stages={stages}` must lie between 1 and 20, and `huber={huber}` above 0")
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, distil=distil, guidance=guidance, times=times, **opponent)  # type: ignore[arg-type]
        self.stages, self.huber = stages, huber

    def rollout(self, batch: Batch) -> ConsistencyStep:
        student, process, noised = self.generator, self.generator.process, self.noised(batch)
        ratio_t = torch.exp(-0.5 * process.log_snr(noised.t))
        ratio_r = self.jump(ratio_t)
        r = process.t_from_log_snr(-2 * ratio_r.log())
        x_r = process.add_noise(*self.ends(batch, noised), r)
        with torch.no_grad(), same_dropout(x_r):
            target = student(x_r, r, batch.condition).x0
        target = torch.where(per_image(ratio_r, x_r) > 0, target, x_r)
        image = student(noised.x_t, noised.t, batch.condition).x0
        return ConsistencyStep(image, target, ratio_t, ratio_r, self.seen(batch, noised, image))

    def jump(self, t: Tensor) -> Tensor:
        """The noise-to-signal ratios r [B] to which it jumps from t [B], in the stage of this step."""
        stage = min(self.stages * self.step // self.steps, self.stages - 1)
        return t * (1 - 2.0 ** -(stage + 1) * (1 + 8 * torch.sigmoid(-t))).clamp(min=0)

    def discriminator_loss(self, batch: Batch, rollout: ConsistencyStep) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def generator_loss(self, batch: Batch, rollout: ConsistencyStep) -> Losses:
        t, r = rollout.t, rollout.r
        square = (rollout.image - rollout.target).square().flatten(1).sum(1)
        self.log(distance=square.sqrt().mean(), jump=(1 - r / t).mean())
        distance = (square + self.huber**2).sqrt() - self.huber
        return {"consistency": ((1 + t) / (t - r) * distance).mean()} | self.adversarial(rollout.views)
