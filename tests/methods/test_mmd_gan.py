"""MMD-GAN: its losses by hand, and a generator that a fixed embedding leads to the data."""

import pytest
import torch
from gan_parts import batch, discriminator, generator, latents, points
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.mmd_gan import MMDGAN
from sparring.objectives import Distance, GaussianMixtureKernel, squared_mmd


def test_its_losses_by_hand():
    kernel = GaussianMixtureKernel(variances=[1.0])
    method = MMDGAN(generator(), discriminator(3), kernel=kernel, witness_weight=2.0, output_weight=0.5)
    net = method.discriminator.net
    rollout, fakes = method.rollout(batch()), method.generator(latents())
    real, fake = net(points()), net(fakes)
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], -squared_mmd(kernel, real, fake))
    torch.testing.assert_close(losses["drift"], 0.5 * (real.square().mean() + fake.square().mean()))
    u = Draws(0, phase="discriminator").uniform((6,)).double().view(6, 1, 1, 1)
    at = (u * points() + (1 - u) * fakes).detach().requires_grad_()
    witness = kernel(net(at), real).mean(1) - kernel(net(at), fake).mean(1)
    (slope,) = torch.autograd.grad(witness.sum(), at)
    torch.testing.assert_close(losses["witness_penalty"], 2 * (slope.flatten(1).norm(dim=1) - 1).square().mean())
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, squared_mmd(kernel, real, fake))
    plain = MMDGAN(generator(), discriminator(3), witness_weight=0, output_weight=0)
    assert set(plain.discriminator_loss(batch("discriminator"), rollout)) == {"adversarial"}


class Affine(nn.Module):
    """x = shift + scale z, from a wrong start."""

    def __init__(self):
        super().__init__()
        self.shift, self.scale = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.0, 1.5))

    def forward(self, z):
        return (self.shift + self.scale * z).view(-1, 1, 1, 1)


def test_on_raw_points_the_energy_distance_leads_a_gaussian_to_the_data():
    """N(1, 1.5^2) learns to be N(-0.5, 0.6^2), with points as their own embedding."""
    method = MMDGAN(LatentGenerator(Affine(), 1), PlainDiscriminator(net=nn.Flatten()), kernel=Distance())
    optimizer = torch.optim.Adam(method.generator.parameters(), 2e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    data = torch.Generator().manual_seed(0)
    for step in range(400):
        real = -0.5 + 0.6 * torch.randn(64, 1, 1, 1, generator=data, dtype=torch.float64)
        rollout = method.rollout(Batch(real, draws=Draws(0, step=step)))
        optimizer.zero_grad()
        method.generator_loss(Batch(real, draws=Draws(0)), rollout)["adversarial"].backward()
        optimizer.step()
        decay.step()
    assert method.generator.net.shift.item() == pytest.approx(-0.5, abs=0.05)
    assert abs(method.generator.net.scale.item()) == pytest.approx(0.6, abs=0.05)


def test_groups_that_do_not_fill_a_batch_are_refused_before_the_first_step():
    method = MMDGAN(generator(), discriminator(3), group=4)
    method.check(8)
    with pytest.raises(ValueError, match="`group=4` does not divide the 6 rows"):
        method.check(6)
