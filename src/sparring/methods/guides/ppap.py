"""PPAP: practical plug-and-play, towards practical guidance of diffusion models (arXiv 2212.05973).

Status: proven against the classifier as it is; more than one expert is no gain (docs/results/sampling.md).

A classifier of clean images becomes a guide for noisy ones without a label: the noise range is split among experts,
each a lightly adapted copy, which learn from the classifier itself on images that the denoiser made,

    L = KL( softmax(f(x_0) / 0.25) || softmax(f_i(x_t)) ),        x_t = alpha x_0 + sigma eps, i the range of t

for `sparring sample RUN --with classifier`. There is no fake and no discriminator. Equal ranges, the low temperature,
the adapters and the images by 25 steps are the official code's. Ours: all experts learn at once and start from the
classifier (there, each from the last one), and the classifier is trained before the first step on the labelled images
of the run, since there is none to fetch.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from sparring.backbones import images_to_learn
from sparring.backbones.experts import Experts
from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, Guide
from sparring.methods.guided import denoiser_of
from sparring.methods.method import Losses, Method
from sparring.methods.own_samples import own_samples
from sparring.process import Times, Uniform
from sparring.rollout import noise


@dataclass
class Opinions:
    """Log-probabilities [B, classes] of the experts for noisy images, and of the classifier for the clean ones."""

    noisy: Tensor
    clean: Tensor


class PPAP(Method):
    """Distils a classifier of clean images into experts of noise levels.

    Args:
        generator: a guide whose network is `Experts`.
        denoiser: run or pipeline folder of the denoiser whose images are learned from, or the denoiser.
        temperature: of the classifier's probabilities; below 1 they are sharpened.
        num_samples: how many images the denoiser makes before the first step, from the seed of the run.
        scheduler: the sampler that makes them.
        num_steps: its steps.
        times: distribution of the noise level; uniform when None.
    """

    generator: Guide

    def __init__(
        self,
        generator: Guide,
        denoiser: str | Denoiser,
        *,
        temperature: float = 0.25,
        num_samples: int = 5000,
        scheduler: str = "ddim",
        num_steps: int = 25,
        times: Times | None = None,
    ):
        if num_samples < 1 or temperature <= 0:
            raise ValueError(f"`num_samples={num_samples}` must be at least 1, and `temperature={temperature}` above 0")
        if not isinstance(generator.net, Experts):
            raise ValueError(f"`generator.net` is a {type(generator.net).__name__}, and PPAP trains Experts")
        if generator.process.scales_input:
            name = type(generator.process).__name__
            raise ValueError(
                f"`process={name}`: it shows networks other images than x_t, which a classifier of clean images "
                "has not seen: take a denoiser of VP or RectifiedFlow"
            )
        super().__init__(generator)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None:
            raise ValueError("`denoiser`: guides see pixels, and this one diffuses latents")
        self.temperature = temperature
        self.num_samples = num_samples
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.times = times or Uniform()
        self.samples = torch.nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def experts(self) -> Experts:
        """The network of the guide."""
        return cast(Experts, self.generator.net)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        experts, process, device = self.experts, self.generator.process, self.samples.device
        ranges = len(experts.edges) + 1
        between = torch.arange(1, ranges, dtype=torch.float64, device=device) / ranges
        experts.edges.copy_(process.model_time(between))
        if experts.base.needs_images:
            experts.base.prepare(*images_to_learn(data), seed)
        draws = Draws(seed, phase="samples of the denoiser", device=device)
        settings = dict(scheduler=self.scheduler, num_steps=self.num_steps, draws=draws)
        self.samples.data, _ = own_samples(self.denoiser, data, self.num_samples, **settings)  # type: ignore[arg-type]

    def rollout(self, batch: Batch) -> Opinions:
        if not len(self.samples):
            raise ValueError("there are no generated images yet: call `prepare(data)` before the first step")
        process, draws = self.generator.process, batch.draws
        x_0 = self.samples[draws.integers(len(self.samples), (len(batch),))]
        with torch.no_grad():
            clean = self.experts.classify(x_0) / self.temperature
        noised = noise(process, Batch(x_0, draws=draws), self.times(process, draws, len(batch)))
        noisy = self.generator(noised.x_t, noised.t)
        return Opinions(noisy.log_softmax(1), clean.to(noisy).log_softmax(1))

    def generator_loss(self, batch: Batch, rollout: Opinions) -> Losses:
        self.log(agreement=(rollout.noisy.argmax(1) == rollout.clean.argmax(1)).double().mean())
        return {"distillation": kl_div(rollout.noisy, rollout.clean, reduction="batchmean", log_target=True)}
