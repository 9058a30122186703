"""CFG-aware training: bridging the gap of training and guided sampling of diffusion models (arXiv 2311.00938).

Status: no gain over guidance of the same effective weight, on digits (docs/results/sampling.md).

A network that is sampled with guidance is trained on the guided output, with the weight drawn for each image:

    L = (1 - p) E |target - (none_sg + w (told - none_sg))|^2 + p E |target - none|^2,        w uniform in [low, high]

with `none` held fixed in the first part. For one w the best `told` is m_u + (m_c - m_u) / w, so that guidance by w2 is
ordinary guidance by w2 / w; for random w the factor is E[w] / E[w^2]. In the ideal limit the loss only rescales the
axis of guidance: compare at the same effective weight. The paper's own loss was not seen; this form is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.process import Times, per_image
from sparring.rollout import Noised, noise


@dataclass
class Guided:
    """A noised batch and the output [B, C, H, W] of the network as it is sampled."""

    noised: Noised
    output: Tensor


class CFGAware(Method):
    """Denoising training of the guided output.

    Args:
        generator: a class-conditional denoiser with a class that says "none", and some `condition_dropout`: p.
        weights: (low, high) of w; (1, 1) is ordinary training.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Denoiser

    def __init__(self, generator: Denoiser, *, weights: tuple[float, float] = (1.0, 3.0), times: Times | None = None):
        low, high = weights
        if not 0 < low <= high:
            raise ValueError(f"`weights={weights}` must be two numbers, 0 < low <= high")
        if not generator.takes_labels or generator.condition_dropout == 0:
            raise ValueError(
                "CFG-aware training needs a class-conditional network and `denoiser.condition_dropout` above 0 (0.1): "
                "it learns the output without a class, too"
            )
        super().__init__(generator)
        self.weights = weights
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> Guided:
        denoiser, draws = self.generator, batch.draws
        noised = noise(denoiser.process, batch, self.times(denoiser.process, draws, len(batch)))
        given = denoiser.condition_with_dropout(batch)
        assert isinstance(given, Tensor)
        told = denoiser(noised.x_t, noised.t, given).output
        low, high = self.weights
        if low == high == 1:
            return Guided(noised, told)
        weight = low + (high - low) * draws.uniform((len(batch),)).to(told)
        weight = torch.where(given == denoiser.null_class, torch.ones_like(weight), weight)
        with torch.no_grad():
            none = denoiser(noised.x_t, noised.t, denoiser.unconditional(given)).output
        return Guided(noised, none + per_image(weight, told) * (told - none))

    def generator_loss(self, batch: Batch, rollout: Guided) -> Losses:
        noised = rollout.noised
        target = self.generator.target(noised.x_0, noised.eps, noised.t)
        return {"diffusion": (rollout.output - target).square().flatten(1).mean(1).mean()}
