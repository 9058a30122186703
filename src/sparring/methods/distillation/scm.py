"""sCM: consistency models in continuous time, distilled or trained (Lu and Song, arXiv 2410.11081).

Status: unproven.

In TrigFlow's coordinates x = cos a x_0 + sin a z, z = s eps, with s the deviation of the data and tan a = sigma / (s
alpha), the consistency function is f = cos a x - sin a s F, and the network is any denoiser: f is its clean image. The
jump of a consistency model goes to 0, and what remains is the slope of f along the path, which should vanish:

    dx/da = cos a z - sin a x_0,        of the image and the noise (training) or of the teacher's predictions of them
    g = (1 - rho) cos^2 a (dx/da - s F) + rho cos a df/da,        rho rises from 0 to 1
    L = e^-u(a) / tan a mean |F - sg F - g / (rms(g) + 0.1)|^2 + u(a)

For rho = 0 this pulls F to the velocity, so the start is denoising; then to constant f. u is a learned uncertainty of
each level. In the paper's terms g = -cos^2 a (s F - dx/da) - rho (cos a sin a x + cos a sin a s dF/da), which is equal.

There is no fake and no discriminator. Tangent, normalisation and weight are those of an implementation in a public
collection, whose 1 / sigma is 1 / tan a in units of s. Ours: df/da is a difference of the stock network along the path
(`clean_image_along`), for it takes 1000 t, and its exact derivative in time is noise; the process's own times,
because one call starts at the noisiest; rates and lengths. Sampling: LCMScheduler, which needs a VP process.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, frozen_copy
from sparring.networks.modes import same_dropout
from sparring.process import Times, Uncertainty, per_image
from sparring.rollout import noise
from sparring.rollout.along_path import clean_image_along
from sparring.rollout.ode_step import check_guidance, guided


@dataclass
class SCMStep:
    """TrigFlow's F of the student, and where it is pulled to, both [B, C, H, W], at levels of log-SNR [B]."""

    output: Tensor
    target: Tensor
    log_snr: Tensor


class SCM(Method):
    """Makes a student of one or a few calls, from a trained denoiser.

    Args:
        generator: a trained denoiser of a VP process; its state at the start is the teacher.
        distil: the velocity is the teacher's; without, that of the image and its noise, and there is no teacher.
        data_std: s, the deviation of the data.
        warmup_steps: over which rho rises; 0: it is 1 from the start.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        derivative: how df/da is computed: by a "difference", or exactly in "forward" or "reverse" mode, which suits
            networks whose output is smooth in time.
        interval: of the difference, to both sides, in the process's time.
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
        data_std: float = 0.5,
        warmup_steps: int = 10_000,
        guidance: float = 1.0,
        derivative: Literal["forward", "reverse", "difference"] = "difference",
        interval: float = 0.02,
        times: Times | None = None,
    ):
        check_not_negative(warmup_steps=warmup_steps)
        if data_std <= 0 or not 0 < interval < 0.5:
            raise ValueError(f"`data_std={data_std}` must be above 0, and `interval={interval}` lie in (0, 0.5)")
        if not distil and guidance != 1:
            raise ValueError(f"`guidance={guidance}` is the teacher's, and with `distil=False` there is none")
        check_guidance(generator, guidance)
        generator.process.scheduler(self.sampler, generator.prediction)
        super().__init__(generator)
        self.teacher = frozen_copy(generator) if distil else None
        self.uncertainty = Uncertainty()
        self.data_std, self.warmup_steps, self.guidance, self.derivative = data_std, warmup_steps, guidance, derivative
        self.interval = interval
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> SCMStep:
        student, process = self.generator, self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        x_0, eps, x_t, t = noised.x_0, noised.eps, noised.x_t, noised.t
        if self.teacher is not None:
            shown = guided(self.teacher, x_t, t, batch.condition, self.guidance)
            x_0, eps = shown.x0, shown.eps
        velocity = process.velocity(x_0, eps, t)
        with same_dropout(x_t):
            _, slope = clean_image_along(
                student, x_t, t, velocity, batch.condition, mode=self.derivative, interval=self.interval
            )
        made = student(x_t, t, batch.condition)
        angle = self.angle(t)
        cos, sin = (per_image(function(angle), x_t) for function in (torch.cos, torch.sin))
        slope = slope / per_image(process.rate(self.angle, t), x_t)  # df/da
        output = (cos * self.data_std * made.eps - sin * made.x0) / self.data_std  # F
        rho = self.ramp(self.warmup_steps) if self.warmup_steps else 1.0
        missing = cos * self.data_std * eps - sin * x_0 - self.data_std * output.detach()
        tangent = (1 - rho) * cos.square() * missing + rho * cos * slope
        size = tangent.square().flatten(1).mean(1).sqrt()
        self.log(tangent=size.mean(), rho=rho)
        return SCMStep(output, output.detach() + tangent / per_image(size + 0.1, x_t), process.log_snr(t))

    def angle(self, t: Tensor) -> Tensor:
        """TrigFlow's a [B] in (0, pi/2) of the process's times t [B]."""
        return torch.atan(self.tangent_of(self.generator.process.log_snr(t)))

    def tangent_of(self, log_snr: Tensor) -> Tensor:
        """tan a = sigma / (s alpha) [B]."""
        return torch.exp(-0.5 * log_snr) / self.data_std

    def generator_loss(self, batch: Batch, rollout: SCMStep) -> Losses:
        error = (rollout.output - rollout.target).square().flatten(1).mean(1)
        u = self.uncertainty.uncertainty(rollout.log_snr)
        return {"consistency": (torch.exp(-u) / self.tangent_of(rollout.log_snr) * error + u).mean()}
