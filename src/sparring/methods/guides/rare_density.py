"""Rare density: what diverse rare sampling of a GAN steers by (arXiv 2412.19543).

Status: proven; rare and real images in place of common ones, at the price of recall (docs/results/sampling.md).

A normalising flow learns the density of real images in the features of a frozen network,

    L = -log p(h + s n) / d,        h: features phi(x), each scaled to [-1, 1],        n ~ N(0, 1)

for `sparring sample GAN --with rare`. There is no fake and no discriminator. Before the first step the backbone is
fitted, if it needs that, and keeps the scaled features of real images with the distance of each to its third nearest:
the region within which an image counts as real. A flow on features, their scaling and the region are the official
code's, with VGG16 and a Glow of 4 x 32 steps. The noise s bounds the density where a feature takes few values; noise,
sizes and the backbone of the setting are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.backbones import images_to_learn
from sparring.backbones.feature_flow import FeatureFlow
from sparring.data import Batch, Draws, ImageData
from sparring.generators import Generator, Guide
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.metrics.neighbours import radii

AT_ONCE = 500  # images that the backbone sees in one pass


@dataclass
class Density:
    """[B] log-densities of noised features of real images."""

    log_density: Tensor


class RareDensity(Method):
    """Likelihood of features of real images.

    Args:
        generator: a guide whose network is a `FeatureFlow`.
        noise: s, deviation of the noise on features in [-1, 1].
    """

    generator: Guide

    def __init__(self, generator: Guide, *, noise: float = 0.02):
        check_not_negative(noise=noise)
        super().__init__(generator)
        if not isinstance(generator.net, FeatureFlow):
            raise ValueError(f"`generator.net` is a {type(generator.net).__name__}, and this trains a FeatureFlow")
        self.noise = noise

    @torch.no_grad()
    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        net, device = flow_of(self.generator), self.generator.device
        images, labels = images_to_learn(data)
        if net.base.needs_images:
            net.base.prepare(images, labels, seed)
        kept = images[: len(net.codes)]
        seen = torch.cat([net.base.features(part.to(device)) for part in kept.split(AT_ONCE)])
        net.low.copy_(seen.amin(0))
        net.high.copy_(seen.amax(0))
        codes = torch.cat([net.scaled(part.to(device)) for part in kept.split(AT_ONCE)])
        net.codes[: len(codes)] = codes
        net.radii[: len(codes)] = radii(codes, (3,))[0].to(net.radii)
        net.spread.copy_((2 * codes.var(0).sum()).sqrt())
        noise = Draws(seed, phase="actnorm", device=device).normal(tuple(codes.shape)).to(codes)
        net.flow.encode((codes + self.noise * noise)[:, :, None, None], standardise=True)
        self.jumped = True

    def rollout(self, batch: Batch) -> Density:
        net = flow_of(self.generator)
        self.generator.images_seen += len(batch)
        with torch.no_grad():
            codes = net.scaled(batch.images)
        return Density(net.log_density(codes + self.noise * batch.draws.normal(tuple(codes.shape)).to(codes)))

    def generator_loss(self, batch: Batch, rollout: Density) -> Losses:
        return {"nats": -rollout.log_density.mean() / flow_of(self.generator).base.dim}

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Nats a feature of held-out images, those of the normal law of the kept features, and the share in the region.

        Each with the noise of training.
        """
        assert isinstance(generator, Guide)
        net = flow_of(generator)
        clean = net.scaled(held_out(data, draws).images)
        codes = clean + self.noise * draws.normal(tuple(clean.shape)).to(clean)
        known = net.codes[net.radii >= 0].double()
        covariance = torch.cov(known.T) + (self.noise**2 + 1e-6) * torch.eye(net.base.dim, device=known.device)
        law = torch.distributions.MultivariateNormal(known.mean(0), covariance)
        return {
            "nats": float(-net.log_density(codes).mean()) / net.base.dim,
            "gaussian_nats": float(-law.log_prob(codes.double()).mean()) / net.base.dim,
            "in_region": float(net.is_real(clean).double().mean()),
        }


def flow_of(guide: Guide) -> FeatureFlow:
    """The network of a guide that `RareDensity` trains."""
    assert isinstance(guide.net, FeatureFlow)
    return guide.net
