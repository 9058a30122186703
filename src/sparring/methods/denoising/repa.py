"""REPA: representation alignment, diffusion training beside a frozen encoder (Yu et al., arXiv 2410.06940).

Status: no gain over a random encoder: with any encoder 0.87 to 0.94 of the distance of equal plain training, on digits
(docs/results/training.md).

Features of an early block, on the noisy image, are drawn to those that a frozen encoder has of the clean image:

    L = L_diffusion - weight mean_n cos(p(h_n), y_n - mean y)

h: tokens of the block; p: a perceptron that is trained with the denoiser and not shipped; y: the encoder's map, brought
to the block's grid. Fake: the one-step prediction; there is no discriminator, and the encoder is frozen. Paper: the
loss, weight 0.5, block 8 of 28, a perceptron of three layers. Ours: small encoders, the centred target (a constant one
would be met by a constant), the middle of a U-Net.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import Backbone, freeze, images_to_learn
from sparring.data import Batch, ImageData
from sparring.generators import Denoiser
from sparring.generators.middle import as_map
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.networks.precision import at_least_float32
from sparring.networks.tap import Tap
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, one_step

IMAGES = 1000  # over which the target is centred, at most (our choice)


@dataclass
class Aligned:
    """A prediction, and the features [B, C, h, w] of the block that it came through."""

    step: OneStep
    features: Tensor | None = None


class REPA(Method):
    """Denoising training with an aligned block.

    Args:
        generator: the denoiser to train, a U-Net or a transformer of diffusers, of captions too.
        encoder: backbone with feature maps; it is trained on the data first if it needs that, and then frozen.
        weight: of the alignment; 0 is plain training, bit for bit.
        depth: blocks of a transformer up to the one that is aligned; None: 0.4 of them. Of a U-Net it is the middle.
        layer: which of the encoder's maps; -1 is the deepest.
        width: of the perceptron.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        encoder: Backbone,
        *,
        weight: float = 0.5,
        depth: int | None = None,
        layer: int = -1,
        width: int = 128,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_not_negative(weight=weight)
        if not -len(encoder.channels) <= layer < len(encoder.channels):
            raise ValueError(f"`layer={layer}`: {encoder.name} has {len(encoder.channels)} maps")
        super().__init__(generator)
        self.weight, self.layer = weight, layer
        self.times = times or generator.process.default_times()
        self.weighting = weighting
        self.encoder: Backbone | None = None
        if weight > 0:
            self.encoder, self.tap = freeze(encoder), Tap(generator.net, depth)
            target = encoder.channels[layer]
            self.projector = nn.Sequential(
                nn.Linear(self.tap.channels, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, target),
            )
            self.mean = nn.Parameter(torch.zeros(target, 1, 1), requires_grad=False)

    def parts(self) -> list[nn.Module]:
        return super().parts() + ([self.projector] if self.weight > 0 else [])

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the encoder if it needs that, and takes the mean of its features."""
        super().prepare(data, seed)
        if self.encoder is None:
            return
        if self.encoder.needs_images:
            self.encoder.prepare(*images_to_learn(data), seed)
            freeze(self.encoder)
        with torch.no_grad():
            maps = self.encoder.maps(data.images(min(len(data), IMAGES)).to(self.mean))[self.layer]
        self.mean.data = maps.mean((0, 2, 3)).view_as(self.mean).to(self.mean)

    def rollout(self, batch: Batch) -> Aligned:
        if self.weight == 0:
            return Aligned(one_step(self.generator, batch, self.times))
        with self.tap.listening() as kept:
            step = one_step(self.generator, batch, self.times)
        return Aligned(step, as_map(kept[0], self.generator, batch.x_0))

    def generator_loss(self, batch: Batch, rollout: Aligned) -> Losses:
        losses: Losses = {"diffusion": denoising_error(self.generator, rollout.step, self.weighting).mean()}
        if rollout.features is not None:
            cosine = self.alignment(batch.images, rollout.features).mean()
            self.log(alignment=cosine)
            losses["alignment"] = -self.weight * cosine
        return losses

    def alignment(self, images: Tensor, features: Tensor) -> Tensor:
        """[B] mean cosine of the block's projected features [B, C, h, w] and the encoder's."""
        assert self.encoder is not None
        height, width = features.shape[2:]
        with torch.no_grad():
            target = self.encoder.maps(images)[self.layer] - self.mean
            target = F.interpolate(target, (height, width), mode="bilinear", antialias=True, align_corners=False)
        told = at_least_float32(self.projector(features.flatten(2).transpose(1, 2)))
        return F.cosine_similarity(told, at_least_float32(target).flatten(2).transpose(1, 2), dim=2).mean(1)
