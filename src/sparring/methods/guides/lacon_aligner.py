"""LaCon aligner: the late-constraint of diffusion for steerable guided synthesis (arXiv 2305.11520).

Status: proven; what it trains steers as far as its weight says, and untrained it does not (docs/results/sampling.md).

A small network reads the condition of an image off what a frozen denoiser computes from its noisy version,

    L = E |a(h(x_t, t), t) - m(x_0)|^2,        x_t = alpha x_0 + sigma eps, t uniform,

h the features of all blocks of the denoiser in one map, m the silhouette: 1 in pixels above a threshold, 0 elsewhere.
`sparring sample RUN --with lacon` steers by the gradient of its error. There is no fake and no discriminator. Loss,
uniform times and a frozen denoiser are the official code's; there the condition is an image in the latents of an
autoencoder, and one noise serves all batches. Silhouettes, and noise that is new in each batch, are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sparring.data import Batch
from sparring.generators import Denoiser, Guide
from sparring.methods.guided import denoiser_of
from sparring.methods.method import Losses, Method
from sparring.networks.block_taps import BlockTaps, in_one_map
from sparring.process import Times, Uniform
from sparring.rollout import noise


@dataclass
class Traced:
    """What the aligner says of noisy images, and their silhouettes, both [B, H W]; times [B]."""

    traced: Tensor
    masks: Tensor
    t: Tensor


class LaConAligner(Method):
    """Learns to see silhouettes in the features of a denoiser.

    Args:
        generator: the aligner, a guide of as many channels as the denoiser has features.
        denoiser: run or pipeline folder of the denoiser whose features are read, or the denoiser.
        threshold: pixels above it, as a mean of the channels, belong to the silhouette.
        times: distribution of the noise level; uniform when None.
    """

    generator: Guide

    def __init__(
        self, generator: Guide, denoiser: str | Denoiser, *, threshold: float = 0.0, times: Times | None = None
    ):
        super().__init__(generator)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None or self.denoiser.takes_labels:
            raise ValueError("`denoiser`: its features are read in pixels and without classes, and this one has others")
        self.taps = BlockTaps(self.denoiser.net)
        if generator.channels != self.taps.channels:
            raise ValueError(
                f"the aligner sees {generator.channels} channels and the denoiser has {self.taps.channels} features: "
                "set `--generator.channels` and `--generator.net.in_channels`"
            )
        self.threshold = threshold
        self.times = times or Uniform()

    @property
    def beside(self) -> Denoiser:
        return self.denoiser

    def rollout(self, batch: Batch) -> Traced:
        noised = noise(self.generator.process, batch, self.times(self.generator.process, batch.draws, len(batch)))
        with torch.no_grad(), self.taps.listening() as features:
            self.denoiser(noised.x_t, noised.t)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        traced = self.generator(in_one_map(features, size), noised.t)
        return Traced(traced, silhouettes(batch.images, self.threshold).flatten(1).to(traced), noised.t)

    def generator_loss(self, batch: Batch, rollout: Traced) -> Losses:
        said, true = rollout.traced > 0.5, rollout.masks > 0.5
        overlap = (said & true).sum(1) / (said | true).sum(1).clamp(min=1)
        self.log(overlap=overlap.double().mean(), overlap_of_the_cleaner_half=overlap[rollout.t <= 0.5].double().mean())
        return {"trace": mse_loss(rollout.traced, rollout.masks)}


def silhouettes(images: Tensor, threshold: float) -> Tensor:
    """1 in pixels of images [B, C, H, W] whose mean over the channels is above the threshold, else 0: [B, 1, H, W]."""
    return (images.mean(1, keepdim=True) > threshold).to(images)
