"""WGAN: the gap of its discriminator against known distances, its losses, and what it refuses."""

import pytest
import torch
from method_parts import siamese, structure
from torch import nn

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.wgan import WGAN
from sparring.networks import Perceptron
from sparring.objectives import GradientPenalty


class Fixed(nn.Module):
    """Gives the same points whatever the latents."""

    def __init__(self, points):
        super().__init__()
        self.points = nn.Parameter(points)

    def forward(self, z):
        return self.points[: len(z)]


class Linear(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x):
        return self.slope * x.flatten(1)


def gap_of(method, real, lr, steps):
    """The gap after the discriminator's training against fixed fakes; its updates are what the trainer makes."""
    optimizer = torch.optim.Adam(method.discriminator.parameters(), lr, betas=(0.0, 0.9))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for method.step in range(steps):
        with torch.no_grad():
            rollout = method.rollout(Batch(real, draws=Draws(0, step=method.step, phase="rollout")))
        batch = Batch(real, draws=Draws(0, step=method.step, phase="discriminator"))
        loss = sum(method.discriminator_loss(batch, rollout).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.discriminator.after_update()
        decay.step()
    return method.statistics["gap"].item()


def test_two_points_and_a_linear_discriminator():
    """Reals at a, fakes at 0: the gap is c a with slopes clipped to c, and a + a^2 / (2 lambda) with the penalty.

    The penalised slope w minimises -w a + lambda (w - 1)^2, so w = 1 + a / (2 lambda).
    """
    a, n = 0.8, 4
    fakes = LatentGenerator(Fixed(torch.zeros(n, 1, 1, 1, dtype=torch.float64)), latent_dim=1)
    real = torch.full((n, 1, 1, 1), a, dtype=torch.float64)
    clipped = WGAN(fakes, PlainDiscriminator(net=Linear(0.0), clip=0.3))
    assert gap_of(clipped, real, 0.1, 30) == pytest.approx(0.3 * a)
    penalised = WGAN(fakes, PlainDiscriminator(net=Linear(0.2)), penalty=GradientPenalty(weight=2.0))
    assert gap_of(penalised, real, 0.1, 200) == pytest.approx(a + a**2 / 4, rel=1e-3)


def test_the_gap_of_shifted_points_is_about_their_distance():
    """The earth mover's distance of a set of points to the same set moved by s is |s|; within 10 %, at lambda 10."""
    generator = torch.Generator().manual_seed(0)
    points = 0.3 * torch.randn(128, 2, 1, 1, generator=generator)
    shift = torch.tensor([0.6, -0.8]).view(2, 1, 1)
    torch.manual_seed(0)
    discriminator = PlainDiscriminator(net=Perceptron(width=64, depth=2))
    fakes = LatentGenerator(Fixed(points), latent_dim=1)
    method = WGAN(fakes, discriminator, penalty=GradientPenalty())
    assert gap_of(method, points + shift, 3e-3, 300) == pytest.approx(1.0, rel=0.1)


def wgan(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    return WGAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = wgan(penalty=GradientPenalty(weight=3.0))
    rollout = method.rollout(batch())
    fake = method.generator(Draws(0, phase="rollout").normal((6, 3)))
    gap = method.discriminator.net(batch().images).mean() - method.discriminator.net(fake).mean()
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], -gap)
    u = Draws(0, phase="discriminator").uniform((6,)).view(6, 1, 1, 1)
    between = (u * batch().images + (1 - u) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(method.discriminator.net(between).sum(), between)
    torch.testing.assert_close(losses["gradient_penalty"], 3 * (gradient.flatten(1).norm(dim=1) - 1).square().mean())
    torch.testing.assert_close(method.statistics["gap"], gap)
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -method.discriminator.net(fake).mean())
    assert list(wgan().discriminator_loss(batch("discriminator"), rollout)) == ["adversarial"]


def test_it_measures_the_distance_that_its_gap_estimates():
    """Fakes that are the held-out points, moved."""
    data, shift = GaussianMixture(num_samples=100), torch.tensor([0.6, -0.8]).view(2, 1, 1)
    moved = data.holdout().images(100) + shift
    method = WGAN(LatentGenerator(Fixed(moved), latent_dim=1), PlainDiscriminator(net=Perceptron(width=8, depth=1)))
    with torch.no_grad():
        found = method.measures(method.generator, data, Draws(0, phase="measures"))
    assert found == {"earth_mover": pytest.approx(1.0, rel=1e-4)}


@pytest.mark.parametrize("discriminator", [siamese, structure])
def test_discriminators_that_compare_are_refused(discriminator):
    with pytest.raises(ValueError, match="compares fakes with the images they were made from"):
        WGAN(wgan().generator, discriminator())
