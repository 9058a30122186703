"""Plug-in guide: plug-and-play diffusion distillation (Hsiao et al., arXiv 2406.01954).

Status: proven at weight 2 on digits, in place of guidance for 0.56 of its passes; it overshoots at 4
(docs/results/sampling.md).

Classifier-free guidance asks a denoiser twice. The denoiser stays frozen, and a small network beside it adds maps in
its decoder, so that one pass gives what two gave:

    L = mean |f_guide(x_t, t, c, w) - sg[ f(x_t, t, none) + w (f(x_t, t, c) - f(x_t, t, none)) ]|^2

on the network's own output f. `sparring sample RUN --with plugged` plugs it into the denoiser, or into one that was
tuned from it. There is no fake and no discriminator. From the paper, of which a summary was read: the loss, the frozen
base, features added in the decoder, guides from full size down to about 1 % of the weights. Ours: the guide's layers;
maps that are multiplied by w - 1 and start at zero; w uniform in a range; pixels and classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sparring.data import Batch
from sparring.generators import Denoiser, Guide
from sparring.methods.guided import denoiser_of
from sparring.methods.method import Losses, Method
from sparring.networks.decoder_guide import DecoderMaps
from sparring.process import Times, per_image
from sparring.rollout import noise


@dataclass
class OnePass:
    """Outputs [B, C, H, W] of the base with its guide, of both passes together, and of the conditional one only."""

    guided: Tensor
    target: Tensor
    told: Tensor


class PlugGuide(Method):
    """Trains what makes the two passes of a guided denoiser one.

    Args:
        generator: the guide, whose network is a `DecoderGuide`.
        denoiser: run or pipeline folder of a denoiser with classes and one that says "none", or the denoiser.
        low: smallest scale w that it learns.
        high: largest one.
        times: distribution of the noise level; the process's own when None.

    Raises:
        ValueError: no such denoiser, a guide of another U-Net, a range that is none.
    """

    generator: Guide

    def __init__(
        self,
        generator: Guide,
        denoiser: str | Denoiser,
        *,
        low: float = 1.0,
        high: float = 4.0,
        times: Times | None = None,
    ):
        if not 0 <= low <= high or low == high == 1:
            raise ValueError(f"`low={low}`, `high={high}`: scales of guidance are 0 or more, low first; 1 is none")
        super().__init__(generator)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None or not (self.denoiser.takes_labels and self.denoiser.takes_guidance):
            raise ValueError(
                "`denoiser`: guidance of pixels by classes is distilled, and this one takes none: start from a run on "
                "digits-classes"
            )
        self.maps = DecoderMaps(self.denoiser.net)
        self.maps.check(generator.net)
        self.low, self.high = low, high
        self.times = times or generator.process.default_times()

    @property
    def beside(self) -> Denoiser:
        return self.denoiser

    def rollout(self, batch: Batch) -> OnePass:
        base, process, labels = self.denoiser, self.generator.process, batch.condition
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        scale = self.low + (self.high - self.low) * batch.draws.uniform((len(batch),)).to(noised.x_t)
        with torch.no_grad():
            told = base(noised.x_t, noised.t, labels).output
            none = base(noised.x_t, noised.t, base.unconditional(labels)).output
        target = none + per_image(scale, none) * (told - none)
        maps = self.generator(noised.x_t, noised.t, labels=labels, scale=scale)
        with self.maps.added(maps):
            guided = base(noised.x_t, noised.t, labels).output
        return OnePass(guided, target, told)

    def generator_loss(self, batch: Batch, rollout: OnePass) -> Losses:
        error = mse_loss(rollout.guided, rollout.target)
        self.log(share_left=error / mse_loss(rollout.told, rollout.target))
        return {"guidance": error}
