"""sCM: consistency models in continuous time, distilled or trained (Lu and Song, arXiv 2410.11081).

Status: proven on digits at one and two calls over the best sampler, worse at four (docs/results/students.md).

In TrigFlow's coordinates x = cos a x_0 + sin a z, z = s eps, with s the deviation of the data and tan a = sigma / (s
alpha), the consistency function is f = cos a x - sin a s F, and the network is any denoiser: f is its clean image. The
jump of a consistency model goes to 0, and what remains is the slope of f along the path, which should vanish:

    dx/da = cos a z - sin a x_0,        of the image and the noise (training) or of the teacher's predictions of them
    g = (1 - rho) cos^2 a (dx/da - s F) + rho cos a df/da,        rho rises from 0 to 1
    L = e^-u(a) / tan a mean |F - sg F - g / (rms(g) + 0.1)|^2 + u(a)

For rho = 0 this pulls F to the velocity, so the start is denoising; then to constant f. u is a learned uncertainty of
each level. In the paper's terms g = -cos^2 a (s F - dx/da) - rho (cos a sin a x + cos a sin a s dF/da), which is equal.

There is no discriminator unless one is given (ours): then f(x_t, t) is its fake. Tangent, normalisation and weight are
those of an implementation in a public collection, whose 1 / sigma is 1 / tan a in units of s. Ours: df/da is a
difference of the stock network along the path, to the cleaner side (`TrigFlow.along`), for it takes 1000 t, and its
exact derivative in time is noise; the process's own times, because one call starts at the noisiest; rates and lengths.
Sampling: LCM's.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import Denoiser
from sparring.methods.consistency_model import ConsistencyModel
from sparring.methods.method import Losses, check_not_negative
from sparring.objectives import Objective, Penalty
from sparring.process import Times, Uncertainty
from sparring.rollout.trigflow import Derivative, TrigFlow, moved


@dataclass
class SCMStep:
    """TrigFlow's F of the student, and where it is pulled to, both [B, C, H, W], at levels of log-SNR [B]; and what a
    discriminator sees, if there is one."""

    output: Tensor
    target: Tensor
    log_snr: Tensor
    views: Views = field(default_factory=Views)


class SCM(ConsistencyModel):
    """Makes a student of one or a few calls, from a trained denoiser.

    Args:
        generator: a trained denoiser of a VP process or a flow; its state at the start is the teacher.
        discriminator: tells f(x_t, t) from the images; none by default. One that compares gets the image itself.
        distil: the velocity is the teacher's; without, that of the image and its noise, and there is no teacher.
        data_std: s, the deviation of the data.
        warmup: share of the run over which rho rises; 0: it is 1 from the start. Above 1 the run ends before rho is 1,
            and with a number as large as 1e6 rho stays 0 and the student the teacher.
        guidance: scale of the teacher's classifier-free guidance; 1 is none.
        derivative: how df/da is computed: by a "difference", or exactly in "forward" or "reverse" mode, which suits
            networks whose output is smooth in time.
        interval: of the difference, to the cleaner side, in the process's time.
        times: distribution of the noise level; the process's own when None.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        distil: bool = True,
        data_std: float = 0.5,
        warmup: float = 0.1,
        guidance: float = 1.0,
        derivative: Derivative = "difference",
        interval: float = 0.02,
        times: Times | None = None,
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(warmup=warmup)
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, distil=distil, guidance=guidance, times=times, **opponent)  # type: ignore[arg-type]
        self.trigflow = TrigFlow(generator.process, data_std=data_std, derivative=derivative, interval=interval)
        self.uncertainty = Uncertainty()
        self.warmup = warmup

    def rollout(self, batch: Batch) -> SCMStep:
        noised = self.noised(batch)
        at = self.trigflow.along(self.generator, batch, noised, *self.ends(batch, noised))
        rho = self.ramp(round(self.warmup * self.steps))
        tangent = (1 - rho) * at.cos.square() * at.missing + rho * at.cos * at.slope
        self.log(tangent=tangent.square().mean().sqrt(), rho=rho)
        views = self.seen(batch, noised, at.image)
        return SCMStep(at.output, moved(at.output, tangent), at.log_snr, views)

    def discriminator_loss(self, batch: Batch, rollout: SCMStep) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def generator_loss(self, batch: Batch, rollout: SCMStep) -> Losses:
        error = (rollout.output - rollout.target).square().flatten(1).mean(1)
        u = self.uncertainty.uncertainty(rollout.log_snr)
        consistency = (torch.exp(-u) / self.trigflow.tan(rollout.log_snr) * error + u).mean()
        return {"consistency": consistency} | self.adversarial(rollout.views)
