"""Diffusion: plain denoising training, the baseline and control of every other method (Ho et al., arXiv 2006.11239).

Status: proven, as the baseline of all results (docs/results/index.md).

Source: denoising score matching in any parameterisation (Ho et al. 2020, arXiv 2006.11239, `L_simple`; Karras et al.
2022, arXiv 2206.00364, for the EDM weighting and noise levels).
Fake: the one-step prediction of the clean image, measured by its squared error; there is no discriminator.
"""

import torch

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.process import Times, Uncertainty, Weighting, elbo_weight, is_monotone
from sparring.rollout import OneStep, denoising_error, one_step

LARGEST = 12.0  # log-SNR, on both sides, over which an ELBO is checked (our choice)


class Diffusion(Method):
    """Ordinary denoising training.

    Args:
        generator: the denoiser to train.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
        likelihood: refuses times and a weighting under which the loss is no ELBO (Kingma and Gao 2023, arXiv
            2303.00848).
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        *,
        times: Times | None = None,
        weighting: Weighting | None = None,
        likelihood: bool = False,
    ):
        super().__init__(generator)
        self.times = times or generator.process.default_times()
        self.weighting = weighting
        if likelihood:
            self.check_likelihood()

    def check_likelihood(self) -> None:
        """Raises ValueError if the loss is no ELBO: its weight over log-SNR rises, is learned, or no bound is known."""
        process = self.generator.process
        process.check_bound("likelihood=true")
        if isinstance(self.weighting, Uncertainty):
            raise ValueError("`likelihood=true`: `weighting=Uncertainty` is learned and may come to rise; take another")
        t = process.snap(torch.linspace(1, 0, 1001, dtype=torch.float64)).unique().flip(0)[1:-1]
        t = t[process.log_snr(t).abs() < LARGEST]
        log_snr = process.log_snr(t)
        weight = self.generator.x0_slope(t) ** -2 if self.weighting is None else self.weighting(log_snr)
        elbo = elbo_weight(process, self.times, weight, log_snr)
        if not is_monotone(elbo):
            name = "None" if self.weighting is None else type(self.weighting).__name__
            raise ValueError(
                f"`likelihood=true`: with `weighting={name}` and `times={type(self.times).__name__}` the weight over "
                f"log-SNR rises up to {log_snr[elbo.argmax()]:.1f}, so the loss is no ELBO; Sigmoid with UniformLogSNR "
                "is one"
            )

    def rollout(self, batch: Batch) -> OneStep:
        return one_step(self.generator, batch, self.times)

    def generator_loss(self, batch: Batch, rollout: OneStep) -> Losses:
        return {"diffusion": denoising_error(self.generator, rollout, self.weighting).mean()}
