"""OTM: its losses by hand, noise as an image, stationarity at the true map, and a Gaussian moved to a Gaussian."""

import pytest
import torch
from gan_parts import batch, discriminator, generator, latents, points
from method_parts import play
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import Given, PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.otm import OTM, Stationarity, smaller_shape
from sparring.objectives import Scores


def test_its_losses_by_hand():
    method = OTM(generator(), discriminator(), cost_weight=0.5, optimality_weight=2.0)
    rollout, net, z = method.rollout(batch()), method.discriminator.net, latents()
    fake = method.generator(z)
    q = z.view(6, 2, 1, 1)
    c = 0.5 * (q - fake).square().sum((1, 2, 3)) / 4  # weight / (2n), n = 2
    f, r = net(fake)[:, 0], net(points())[:, 0]
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], (f - c).mean() - r.mean())
    x = fake.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    expected = 2 * (0.5 * (fake - q).mean(0) / 2 - slope.mean(0)).norm()
    torch.testing.assert_close(losses["optimality"], expected)
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, (c - f).mean())
    assert set(OTM(generator(), discriminator()).discriminator_loss(batch("d"), rollout)) == {"adversarial"}


def test_several_updates_of_the_generator_run_it_again_on_the_same_latents():
    once, often = OTM(generator(), discriminator()), OTM(generator(), discriminator(), generator_updates=3)
    assert often.updates_per_rollout == 3
    with torch.no_grad():
        rollout = often.rollout(batch())
    expected = once.generator_loss(batch("generator"), once.rollout(batch()))["adversarial"]
    found = often.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None for p in often.generator.parameters())


def test_a_cost_from_other_noise():
    method = OTM(generator(), discriminator(), own_source=False)
    draws = Draws(0, phase="rollout")
    z, other = (draws.normal((6, 2)).double() for _ in range(2))
    expected = (other.view(6, 2, 1, 1) - method.generator(z)).square().mean((1, 2, 3)) / 2
    torch.testing.assert_close(method.rollout(batch()).given.cost, expected)


def test_noise_as_an_image():
    assert smaller_shape((1, 8, 8), 64) == (1, 8, 8)
    assert smaller_shape((3, 32, 32), 192) == (3, 8, 8)
    assert smaller_shape((2, 1, 1), 2) == (2, 1, 1)
    with pytest.raises(ValueError, match=r"`latent_dim=10`: .* those of 1x8x8 or smaller have 64, 16, 4, 1 numbers"):
        smaller_shape((1, 8, 8), 10)
    net = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    image = OTM(LatentGenerator(net, 4), PlainDiscriminator(net=nn.Flatten())).source(torch.ones(3, 4))
    torch.testing.assert_close(image, torch.ones(3, 1, 8, 8))


class Potential(nn.Module):
    """phi(y) = a y - b y^2 / 2."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, y):
        y = y.flatten(1)
        return self.a * y - self.b * y.square() / 2


class Affine(nn.Module):
    """T(z) = shift + scale z."""

    def __init__(self, shift, scale):
        super().__init__()
        self.shift, self.scale = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (shift, scale))

    def forward(self, z):
        return (self.shift + self.scale * z).view(-1, 1, 1, 1)


M, S = 0.5, 0.7


def test_the_potential_of_the_true_map_is_stationary():
    """N(0,1) to N(m, s^2): T(z) = m + s z and phi'(y) = y - T^-1(y) = y - (y - m) / s, wherever z lies."""
    phi = PlainDiscriminator(net=Potential(M / S, 1 / S - 1))
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    fakes = Affine(M, S)(z).detach().requires_grad_()
    fake = Scores(phi.logits([fakes], Given()), [fakes])
    penalty = Stationarity(lambda z: z.view(-1, 1, 1, 1), 1.0, weight=1.0, group=1)
    assert penalty(phi, fake, fake, Given(condition=(z, z)), Draws(0)).item() < 1e-5
    wrong = PlainDiscriminator(net=Potential(M / S, 1 / S - 0.5))
    fake = Scores(wrong.logits([fakes], Given()), [fakes])
    expected = 0.5 * (M + S * z).abs().mean()
    torch.testing.assert_close(penalty(wrong, fake, fake, Given(condition=(z, z)), Draws(0)), expected)


def test_a_gaussian_is_moved_to_a_gaussian_by_the_monotone_map():
    """From the mirrored slope: unexplained variance below 1 %, mean cost (m^2 + (1 - s)^2) / 2, and the potential."""
    method = OTM(LatentGenerator(Affine(0.0, -0.3), latent_dim=1), PlainDiscriminator(net=Potential(0.0, 0.1)))
    data = torch.Generator().manual_seed(0)
    batches = [(M + S * torch.randn(128, 1, 1, 1, generator=data, dtype=torch.float64), None) for _ in range(1000)]
    play(method, batches, lr=1e-2, discriminator_lr=1e-2, mean_from=600)
    net = method.generator.net
    unexplained = ((net.shift - M) ** 2 + (net.scale - S) ** 2).item() / S**2
    assert unexplained < 0.01
    with torch.no_grad():
        rollout = method.rollout(Batch(torch.zeros(20_000, 1, 1, 1, dtype=torch.float64), draws=Draws(1)))
    assert rollout.given.cost.mean().item() == pytest.approx((M**2 + (1 - S) ** 2) / 2, rel=0.05)
    assert method.discriminator.net.b.item() == pytest.approx(1 / S - 1, abs=0.1)


def test_the_cost_of_what_it_makes_is_measured():
    method = OTM(
        LatentGenerator(Affine(M, S), latent_dim=1), PlainDiscriminator(net=Potential(0.0, 0.1)), cost_weight=3.0
    )
    data = StoredImages(torch.zeros(50, 1, 1, 1, dtype=torch.float64))
    z = Draws(0, phase="measures").normal((50, 1)).double()
    with torch.no_grad():
        found = method.measures(method.generator, data, Draws(0, phase="measures"))
    assert found == {"cost": pytest.approx(((M + S * z - z) ** 2).mean().item() / 2)}
