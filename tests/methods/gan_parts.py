"""What the tests of GANs share: a small method in float64, and batches of points."""

import torch

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.networks import Perceptron


def generator(latent_dim: int = 2, **conditions) -> LatentGenerator:
    torch.manual_seed(0)
    net = Perceptron(in_features=latent_dim, out_shape=[2, 1, 1], width=8, depth=2, **conditions)
    return LatentGenerator(net, latent_dim, **conditions).double()


def discriminator(outputs: int = 1, given=(), last=None, **conditions) -> PlainDiscriminator:
    torch.manual_seed(1)
    net = Perceptron(width=8, depth=2, out_shape=[outputs], **conditions)
    return PlainDiscriminator(net=net, given=given, last=last).double()


def points(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batch(phase: str = "rollout", n: int = 6, step: int = 0) -> Batch:
    """The same points and labels every time, with the draws of a phase."""
    return Batch(points(n), torch.arange(n) % 3, Draws(0, step=step, phase=phase), index=torch.arange(n))


def latents(n: int = 6, d: int = 2) -> torch.Tensor:
    """Those of a rollout that draws nothing else before."""
    return Draws(0, phase="rollout").normal((n, d)).double()
