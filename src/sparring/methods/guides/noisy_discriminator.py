"""Noisy discriminator: the one of discriminator guidance, refining a generative process (Kim et al., arXiv 2211.17091).

Status: no gain; on digits (docs/results/sampling.md).

Tells noised real images from noised images of a trained denoiser, for `sparring sample RUN --with discriminator`:

    L = E softplus(-D(x_t, t)) + E softplus(D(x~_t, t)),        x_t = alpha x_0 + sigma eps, the same t for both

whose best logit D is log p_data(x_t) / p_model(x_t). Fake: images that the denoiser made before the first step, noised
again. The loss is the paper's, without its weight over t; network, times and the number of fakes are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, Guide
from sparring.methods.guided import denoiser_of
from sparring.methods.method import Losses, Method
from sparring.methods.own_samples import own_samples
from sparring.process import Times
from sparring.rollout import noise


@dataclass
class NoisyLogits:
    """Logits [B] of noised real images and of noised generated ones."""

    real: Tensor
    fake: Tensor


class NoisyDiscriminator(Method):
    """Logistic regression between real images and a denoiser's own, at every noise level.

    Args:
        generator: the discriminator, a guide with one output.
        denoiser: run or pipeline folder of the denoiser whose errors are learned, or the denoiser.
        num_fakes: how many images it generates before the first step, from the seed of the run.
        scheduler: the sampler that makes them; guidance repairs what this sampler gets wrong.
        num_steps: its steps.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Guide

    def __init__(
        self,
        generator: Guide,
        denoiser: str | Denoiser,
        *,
        num_fakes: int = 5000,
        scheduler: str = "ddim",
        num_steps: int = 20,
        times: Times | None = None,
    ):
        if num_fakes < 1:
            raise ValueError(f"`num_fakes={num_fakes}` must be at least 1")
        super().__init__(generator)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None:
            raise ValueError("`denoiser`: guides see pixels, and this one diffuses latents")
        self.num_fakes = num_fakes
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.times = times or generator.process.default_times()
        self.fakes = torch.nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def beside(self) -> Denoiser:
        return self.denoiser

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        draws = Draws(seed, phase="fakes", device=self.fakes.device)
        settings = dict(scheduler=self.scheduler, num_steps=self.num_steps, draws=draws)
        self.fakes.data, _ = own_samples(self.denoiser, data, self.num_fakes, **settings)  # type: ignore[arg-type]

    def rollout(self, batch: Batch) -> NoisyLogits:
        if not len(self.fakes):
            raise ValueError("there are no generated images yet: call `prepare(data)` before the first step")
        process, draws = self.generator.process, batch.draws
        t = self.times(process, draws, len(batch))
        fakes = Batch(self.fakes[draws.integers(len(self.fakes), (len(batch),))], draws=draws)
        real, fake = noise(process, batch, t), noise(process, fakes, t)
        return NoisyLogits(self.generator(real.x_t, t)[:, 0], self.generator(fake.x_t, t)[:, 0])

    def generator_loss(self, batch: Batch, rollout: NoisyLogits) -> Losses:
        self.log(accuracy=((rollout.real > 0).double().mean() + (rollout.fake < 0).double().mean()) / 2)
        return {"real": softplus(-rollout.real).mean(), "fake": softplus(rollout.fake).mean()}
