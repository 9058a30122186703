"""R3GAN: its losses by hand, its schedules, and the local convergence that both penalties give."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.r3gan import R3GAN
from sparring.networks import Perceptron


def r3gan(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    return R3GAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def squared_slope(net, x):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    return gradient.flatten(1).square().sum(1).mean()


def test_its_losses_by_hand():
    """Real i against fake i, for both players; half of gamma times each penalty."""
    method = r3gan(gamma=3.0, gamma_end=3.0)
    net, rollout = method.discriminator.net, method.rollout(batch())
    fake = method.generator(Draws(0, phase="rollout").normal((6, 3)))
    gap = net(batch().images) - net(fake)
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    assert set(losses) == {"adversarial", "r1", "r2"}
    torch.testing.assert_close(losses["adversarial"], softplus(-gap).mean())
    torch.testing.assert_close(losses["r1"], 1.5 * squared_slope(net, batch().images))
    torch.testing.assert_close(losses["r2"], 1.5 * squared_slope(net, fake))
    torch.testing.assert_close(method.generator_loss(batch("g"), rollout)["adversarial"], softplus(gap).mean())


def test_gamma_follows_half_a_cosine_and_is_due_in_every_step():
    method = r3gan(gamma=2.0, gamma_end=0.5)
    method.steps = 8
    weights = []
    for method.step in range(8):
        losses = method.discriminator_loss(batch("discriminator"), method.rollout(batch()))
        net = method.discriminator.net
        weights.append((2 * losses["r1"] / squared_slope(net, batch().images)).item())
        assert method.statistics["gamma"].item() == pytest.approx(weights[-1])
    assert weights == pytest.approx([0.5 + 0.75 * (1 + math.cos(math.pi * step / 8)) for step in range(8)], rel=1e-4)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="`gamma_end=-1` must be 0 or more"):
        r3gan(gamma_end=-1)


class Slope(nn.Module):
    """D(x) = psi x, the discriminator of the game of two points (Mescheder et al. 2018, section 2)."""

    def __init__(self, psi):
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(psi, dtype=torch.float64))

    def forward(self, x):
        return self.psi * x.flatten(1)


class Point(nn.Module):
    """G(z) = theta, whatever z."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, z):
        return self.theta.expand(len(z), 1, 1, 1)


@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_the_game_of_two_points(gamma):
    """Real at 0, fake at theta, slope psi. The gradient flow is psi' = -theta/2 - 2 gamma psi, theta' = psi/2 near 0.

    So each penalty adds gamma to the damping: the eigenvalues are -gamma +- sqrt(gamma^2 - 1/4), and without penalties
    the two circle at a constant distance.
    """
    fake, slope = Point(0.01), Slope(0.0)
    method = R3GAN(LatentGenerator(fake, 1), PlainDiscriminator(net=slope), gamma=gamma, gamma_end=gamma)
    rows = Batch(torch.zeros(4, 1, 1, 1, dtype=torch.float64), draws=Draws(0))

    def field():
        rollout = method.rollout(rows)
        loss = sum(method.discriminator_loss(rows, rollout).values())
        (of_slope,) = torch.autograd.grad(loss, slope.psi)
        (of_point,) = torch.autograd.grad(sum(method.generator_loss(rows, rollout).values()), fake.theta)
        return torch.stack([-of_slope, -of_point])

    state = torch.stack([slope.psi, fake.theta]).detach()
    columns = []
    for number in range(2):
        moved = state * 0
        moved[number] = 1e-4
        values = []
        for sign in (1, -1):
            slope.psi.data, fake.theta.data = (sign * moved).unbind()
            values.append(field())
        columns.append((values[0] - values[1]) / 2e-4)
    eigenvalues = torch.linalg.eigvals(torch.stack(columns, 1))
    inside = complex(gamma**2 - 0.25)
    expected = torch.tensor([-gamma + inside**0.5, -gamma - inside**0.5])
    found = eigenvalues[eigenvalues.imag.argsort(descending=True)]
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-4, atol=1e-4)
