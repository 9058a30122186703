"""Diffusion: plain denoising training, the baseline and control of every other method (Ho et al., arXiv 2006.11239).

Status: proven, as the baseline of all results (docs/results/index.md).

Source: denoising score matching in any parameterisation (Ho et al. 2020, arXiv 2006.11239, `L_simple`; Karras et al.
2022, arXiv 2206.00364, for the EDM weighting and noise levels).
Fake: the one-step prediction of the clean image, measured by its squared error; there is no discriminator.
"""

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, one_step


class Diffusion(Method):
    """Ordinary denoising training.

    Args:
        generator: the denoiser to train.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(self, generator: Denoiser, *, times: Times | None = None, weighting: Weighting | None = None):
        super().__init__(generator)
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def rollout(self, batch: Batch) -> OneStep:
        return one_step(self.generator, batch, self.times)

    def generator_loss(self, batch: Batch, rollout: OneStep) -> Losses:
        return {"diffusion": denoising_error(self.generator, rollout, self.weighting).mean()}
