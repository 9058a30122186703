"""Consistency: models that predict the end of a path in one call (Song et al., arXiv 2303.01469).

Status: unproven.

The prediction of the clean image, f(x_t, t), is to be the same all along a path of the ODE. It is pulled to its own,
without gradient, at a cleaner level r of the same path. On the schedule of ECT (arXiv 2406.14548), the jump from t to r
shrinks in stages k = 0, 1 …:

    r = t - t (1 - q) (1 + 8 sigmoid(-t)), at least 0,      q = 1 - 2^-(k+1)        (t, r: noise-to-signal ratios)
    L = w(t) / (t - r) (sqrt(|f(x_t, t) - sg f(x_r, r)|^2 + c^2) - c),             f(x_0, 0) = x_0

x_r is one Euler step of a frozen teacher (distillation), or has the image and the noise of x_t (training, which needs
no teacher). The first stage jumps to 0 at low noise: there it is denoising, and distillation of the teacher itself.

There is no fake and no discriminator. Both passes of f have the same dropout mask; there is no average target. The
paper has w = 1. Ours is w = 1 + t: in a short run the gradient of the noisiest levels, at which a one-call student
starts, would be lost. ECT has stages of equal numbers of images, here they divide the run evenly. Sampling is the
paper's: predict, noise again, predict (LCMScheduler); it needs a VP process.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, frozen_copy
from sparring.networks.modes import same_dropout
from sparring.process import Times, per_image
from sparring.rollout import noise
from sparring.rollout.ode_step import check_guidance, ddim, guided


@dataclass
class ConsistencyStep:
    """The student's image at t, what it is pulled to, [B, C, H, W], and both noise-to-signal ratios [B]."""

    image: Tensor
    target: Tensor
    t: Tensor
    r: Tensor


class Consistency(Method):
    """Makes a student of one or a few calls, from a trained denoiser.

    Args:
        generator: a trained denoiser of a VP process; its state at the start is the teacher.
        distil: x_r is a step of the teacher; without, it has the noise of x_t, and there is no teacher.
        stages: how often the jump is halved, plus one.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        huber: c, below which the distance is a squared one.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Denoiser
    sampler = "lcm"
    sample_steps = 1

    def __init__(
        self,
        generator: Denoiser,
        *,
        distil: bool = True,
        stages: int = 8,
        guidance: float = 1.0,
        huber: float = 1e-8,
        times: Times | None = None,
    ):
        if stages < 1 or huber <= 0:
            raise ValueError(f"`stages={stages}` must be at least 1, and `huber={huber}` above 0")
        if not distil and guidance != 1:
            raise ValueError(f"`guidance={guidance}` is the teacher's, and with `distil=False` there is none")
        check_guidance(generator, guidance)
        generator.process.scheduler(self.sampler, generator.prediction)
        super().__init__(generator)
        self.teacher = frozen_copy(generator) if distil else None
        self.stages, self.guidance, self.huber = stages, guidance, huber
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> ConsistencyStep:
        student, process = self.generator, self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        ratio_t = torch.exp(-0.5 * process.log_snr(noised.t))
        ratio_r = self.jump(ratio_t)
        r = process.t_from_log_snr(-2 * ratio_r.log())
        if self.teacher is None:
            x_r = process.add_noise(noised.x_0, noised.eps, r)
        else:
            x_r = ddim(guided(self.teacher, noised.x_t, noised.t, batch.condition, self.guidance), r)
        with torch.no_grad(), same_dropout(x_r):
            target = student(x_r, r, batch.condition).x0
        target = torch.where(per_image(ratio_r, x_r) > 0, target, x_r)
        image = student(noised.x_t, noised.t, batch.condition).x0
        return ConsistencyStep(image, target, ratio_t, ratio_r)

    def jump(self, t: Tensor) -> Tensor:
        """The noise-to-signal ratios r [B] to which it jumps from t [B], in the stage of this step."""
        stage = min(self.stages * self.step // self.steps, self.stages - 1)
        return t * (1 - 2.0 ** -(stage + 1) * (1 + 8 * torch.sigmoid(-t))).clamp(min=0)

    def generator_loss(self, batch: Batch, rollout: ConsistencyStep) -> Losses:
        t, r = rollout.t, rollout.r
        square = (rollout.image - rollout.target).square().flatten(1).sum(1)
        self.log(distance=square.sqrt().mean(), jump=(1 - r / t).mean())
        distance = (square + self.huber**2).sqrt() - self.huber
        return {"consistency": ((1 + t) / (t - r) * distance).mean()}
