"""GAN: its losses for any objective and penalty by hand, its default, what it refuses, and the game of two points."""

import cmath

import pytest
import torch
from method_parts import siamese
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.networks import Perceptron
from sparring.objectives import R1, R2, Relativistic


def gan(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    return GAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def logits(method):
    fake = method.generator(Draws(0, phase="rollout").normal((6, 3)))
    return method.discriminator.net(batch().images), method.discriminator.net(fake)


def test_without_an_objective_it_is_the_papers():
    method = gan()
    rollout = method.rollout(batch())
    real, fake = logits(method)
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses, {"adversarial": -(real.sigmoid().log().mean() + (-fake).sigmoid().log().mean())})
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -fake.sigmoid().log().mean())


def test_any_objective_and_penalties():
    method = gan(objective=Relativistic(), penalty=[R1(weight=2.0), R2(weight=3.0)])
    rollout = method.rollout(batch())
    real, fake = logits(method)
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    assert set(losses) == {"adversarial", "r1", "r2"}
    torch.testing.assert_close(losses["adversarial"], -(real - fake).sigmoid().log().mean())
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -(fake - real).sigmoid().log().mean())


def test_a_discriminator_that_compares_is_refused():
    with pytest.raises(ValueError, match="compares fakes with the images they were made from"):
        GAN(gan().generator, siamese())


class Place(nn.Module):
    """A generator whose only fake is its weight."""

    def __init__(self, place):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place, dtype=torch.float64))

    def forward(self, z):
        return self.place.expand(len(z), 1, 1, 1)


class Slope(Place):
    """D(x) = place * x."""

    def forward(self, x):
        return self.place * x.flatten(1)


@pytest.mark.parametrize(("gamma", "spirals_in"), [(0.0, False), (0.5, True)])
def test_the_game_of_two_points_has_the_eigenvalues_of_its_theory(gamma, spirals_in):
    """Reals at 0, fakes at theta, D(x) = psi x: near (0, 0) the players' field is linear.

    With the non-saturating loss `v = (dtheta, dpsi) = (psi / 2, -theta / 2 - gamma psi)`, so that its eigenvalues are
    `(-gamma +- sqrt(gamma^2 - 1)) / 2`: real part 0 without the penalty, negative with it (Mescheder et al. 2018).
    """
    method = GAN(
        LatentGenerator(Place(0.0), latent_dim=1), PlainDiscriminator(net=Slope(0.0)), penalty=R1(weight=gamma)
    )
    theta, psi = method.generator.net.place, method.discriminator.net.place
    reals = Batch(torch.zeros(4, 1, 1, 1, dtype=torch.float64), draws=Draws(0))

    def field(theta_now, psi_now):
        theta.data.fill_(theta_now)
        psi.data.fill_(psi_now)
        rollout = method.rollout(reals)
        generator = method.generator_loss(reals, rollout)["adversarial"]
        (dtheta,) = torch.autograd.grad(generator, theta, retain_graph=True)
        (dpsi,) = torch.autograd.grad(sum(method.discriminator_loss(reals, rollout).values()), psi)
        return torch.stack([-dtheta, -dpsi])

    h = 1e-5
    jacobian = torch.stack([(field(h, 0) - field(-h, 0)) / (2 * h), (field(0, h) - field(0, -h)) / (2 * h)], dim=1)
    found = sorted(torch.linalg.eigvals(jacobian).tolist(), key=lambda v: v.imag)
    root = cmath.sqrt(gamma**2 - 1)
    assert found == pytest.approx(sorted([(-gamma - root) / 2, (-gamma + root) / 2], key=lambda v: v.imag), abs=1e-6)
    assert (max(value.real for value in found) < -1e-3) == spirals_in
