"""A plain GAN as a method of its own, on points and on digits: what the tests of latent generators share."""

import torch
from torch import nn
from torch.nn.functional import softplus

from sparring.data import GaussianMixture
from sparring.generators import LatentGenerator
from sparring.methods.method import Method
from sparring.networks import Perceptron
from sparring.training import AdamW, Trainer


class TinyGAN(Method):
    """The non-saturating loss of Goodfellow et al. 2014, without anything that steadies it."""

    generator: LatentGenerator

    def __init__(self, generator: LatentGenerator, discriminator: nn.Module):
        super().__init__(generator, discriminator)

    def rollout(self, batch):
        return self.generator(self.generator.latents(batch), batch.labels)

    def discriminator_loss(self, batch, rollout):
        real, fake = self.discriminator(batch.images), self.discriminator(rollout.detach())
        return {"adversarial": softplus(-real).mean() + softplus(fake).mean()}

    def generator_loss(self, batch, rollout):
        return {"adversarial": softplus(-self.discriminator(rollout)).mean()}


def points_gan(seed=0):
    torch.manual_seed(seed)
    generator = LatentGenerator(Perceptron(in_features=4, out_shape=(2, 1, 1), width=16, depth=2), latent_dim=4)
    return TinyGAN(generator, Perceptron(in_features=2, width=16, depth=2))


def trainer(out, method=None, data=None, **settings):
    chosen = {"steps": 6, "batch_size": 32, "num_samples": 9, "tracker": None, "ema_decay": 0.5, "log_every": 2}
    chosen |= {"generator_optimizer": AdamW(lr=1e-2), "discriminator_optimizer": AdamW(lr=1e-2)}
    return Trainer(method or points_gan(), data or GaussianMixture(num_samples=200), out=out, **chosen | settings)
