"""Glow: generative flow with invertible 1x1 convolutions (Kingma and Dhariwal, arXiv 1807.03039).

Status: proven; 2.41 bits on digits, a normal law 2.97; samples at 2.62, a GAN 8.83 (docs/results/training.md).

    L = -log2 p(x) / M,    log p(x) = log N(z; 0, 1) + log |det dz / dx|,    z = f(x), f inverted exactly

M: numbers of an image. Pixels of few values are dequantised: x plus uniform noise as wide as a step between two values,
so that `L - log2(step)` bounds the bits per number that an image takes. There is no fake and no discriminator: images
go the way back, from which the law of every image is known. Samples go forward from normal numbers.

Paper: network, loss, actnorm that standardises the first images, Adamax 1e-3, samples at a temperature of 0.7
(`Tempered`). Ours: sizes, Adam, how many values a pixel has, and the two laws that it is measured against.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Generator, LatentGenerator
from sparring.methods.method import Losses, Method, held_out
from sparring.networks import GlowNet
from sparring.networks.precision import at_least_float32

STANDARDISED = 256  # images by which actnorm starts
FITTED = 10000  # images, for the laws that it is measured against


@dataclass
class Encoded:
    """What a batch of images is on the other side of the flow."""

    z: Tensor
    volume: Tensor


class Glow(Method):
    """A flow of images or points, trained by their likelihood.

    Args:
        generator: from latents to images, whose network is a `GlowNet`.
        values: of a pixel, evenly spaced in [-1, 1]: 256 of a byte, 17 of the digits. None: it is continuous.

    Raises:
        ValueError: another network, a class-conditional one, or fewer than 2 values.
    """

    generator: LatentGenerator
    sample_steps = 1

    def __init__(self, generator: LatentGenerator, *, values: int | None = 256):
        super().__init__(generator)
        if not isinstance(generator.net, GlowNet):
            raise ValueError(f"`generator.net`: Glow inverts its network, and {type(generator.net).__name__} has none")
        if generator.takes_labels:
            raise ValueError(f"`num_classes={generator.num_classes}`: Glow has no classes; set it to null")
        if values is not None and values < 2:
            raise ValueError(f"`values={values}` must be at least 2, or null for numbers that are continuous")
        self.step_width = 0.0 if values is None else 2 / (values - 1)

    def dequantised(self, images: Tensor, draws: Draws) -> Tensor:
        """Images [B, C, H, W] with uniform noise as wide as the step between two values of a pixel."""
        if self.step_width == 0:
            return images
        return images + self.step_width * (draws.uniform(tuple(images.shape)).to(images) - 0.5)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Starts every actnorm by images of the data; the average of the weights begins there."""
        super().prepare(data, seed)
        images = data.images(min(len(data), STANDARDISED), seed).to(self.generator.device)
        with torch.no_grad():
            draws = Draws(seed, phase="actnorm", device=self.generator.device)
            flow_of(self.generator).encode(self.dequantised(images, draws), standardise=True)
        self.jumped = True

    def rollout(self, batch: Batch) -> Encoded:
        self.generator.images_seen += len(batch)
        return Encoded(*flow_of(self.generator).encode(self.dequantised(batch.images, batch.draws)))

    def generator_loss(self, batch: Batch, rollout: Encoded) -> Losses:
        return {"bits": bits(rollout.z, rollout.volume).mean()}

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Bits per number of held-out images, beside those of two laws that know less.

        `gaussian_bits` are of the normal law with the mean and full covariance of the training images, and
        `histogram_bits` of independent numbers, each with the frequencies of its values.
        """
        assert isinstance(generator, LatentGenerator)
        images = held_out(data, draws).images
        x, seen = self.dequantised(images, draws), data.images(min(len(data), FITTED)).to(images)
        offset = math.log2(self.step_width or 1)
        found = {
            "bits": float(bits(*flow_of(generator).encode(x)).mean()) - offset,
            "gaussian_bits": gaussian_bits(self.dequantised(seen, draws), x) - offset,
        }
        return found | ({"histogram_bits": histogram_bits(seen, images, self.step_width)} if self.step_width else {})


def flow_of(generator: LatentGenerator) -> GlowNet:
    assert isinstance(generator.net, GlowNet)
    return generator.net


def bits(z: Tensor, volume: Tensor) -> Tensor:
    """[B] `-log2 p(x)` per number, of the codes z [B, M] and `log |det dz / dx|` [B]."""
    z = at_least_float32(z)
    log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + volume
    return -log_p / (z.shape[1] * math.log(2))


def gaussian_bits(seen: Tensor, x: Tensor) -> float:
    """Mean `-log2 p(x)` per number under the normal law of rows seen [N, ...], its variances raised by 1e-6."""
    seen, x = seen.flatten(1).double(), x.flatten(1).double()
    covariance = torch.cov(seen.T).view(x.shape[1], -1) + 1e-6 * torch.eye(x.shape[1], device=x.device)
    law = torch.distributions.MultivariateNormal(seen.mean(0), covariance)
    return float(-law.log_prob(x).mean()) / (x.shape[1] * math.log(2))


def histogram_bits(seen: Tensor, images: Tensor, step: float) -> float:
    """Mean bits per number when each has the frequencies of its values in rows seen [N, ...], one added to each."""
    number = round(2 / step) + 1
    level = lambda x: ((x.flatten(1) + 1) / step).round().long().clamp(0, number - 1)  # noqa: E731
    values = level(seen).T
    counts = torch.ones(len(values), number, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, values, counts.new_ones(values.shape))
    frequency = (counts / counts.sum(1, keepdim=True)).log2()
    return float(-frequency.gather(1, level(images).T).mean())
