"""MINE: its bounds reach the information of correlated Gaussians from below; its losses by hand; what it refuses."""

import math

import pytest
import torch

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.mine import MINE
from sparring.networks import Perceptron
from sparring.objectives.information import donsker_varadhan, f_divergence, limited

RHO = 0.9
ANALYTIC = -0.5 * math.log(1 - RHO**2)


def correlated(n, seed):
    x, noise, other = torch.randn(3, n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, RHO * x + (1 - RHO**2) ** 0.5 * noise, other


def log_ratio(x, c):
    """log p(x, c) / p(x) p(c)."""
    return ANALYTIC + (2 * RHO * x * c - RHO**2 * (x**2 + c**2)) / (2 * (1 - RHO**2))


def test_the_best_network_has_the_information_and_others_have_less():
    x, c, other = correlated(400_000, 0)
    for bound, constant in ((donsker_varadhan, 5.0), (f_divergence, 1.0)):
        exact = bound(log_ratio(x, c) + constant, log_ratio(x, other) + constant)
        assert exact == pytest.approx(ANALYTIC, rel=0.02)
        assert bound(0.5 * log_ratio(x, c) + constant, 0.5 * log_ratio(x, other) + constant) < 0.95 * ANALYTIC
    none = donsker_varadhan(torch.full((9,), 3.0), torch.full((7,), 3.0))
    assert none == pytest.approx(0, abs=1e-6)
    assert f_divergence(torch.zeros(9), torch.zeros(7)) < 0


@pytest.mark.parametrize("bound", [donsker_varadhan, f_divergence])
def test_a_trained_network_approaches_it_from_below_and_finds_none_in_independent_pairs(bound):
    for together, information in ((True, ANALYTIC), (False, 0.0)):
        torch.manual_seed(0)
        net = Perceptron(in_features=1, joined=1, width=32, depth=2)
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for step in range(300):
            x, c, other = (rows.float() for rows in correlated(256, step))
            optimizer.zero_grad()
            (-bound(net(x, joined=c if together else other.roll(1, 0)), net(x, joined=other))).backward()
            optimizer.step()
        x, c, other = (rows.float() for rows in correlated(50_000, -1))
        with torch.no_grad():
            found = donsker_varadhan(net(x, joined=c if together else other.roll(1, 0)), net(x, joined=other)).item()
        assert information - 0.1 * max(information, 0.3) < found < information + 0.02


def test_a_gradient_is_limited_row_by_row():
    gradient, other = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(3, 2)
    torch.testing.assert_close(limited(gradient, other), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def mine(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=5, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=5)
    information = Perceptron(joined=3, width=8, depth=2)
    return MINE(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), information, **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


@pytest.mark.parametrize("beta", [1e-3, 1e3])
def test_its_losses_by_hand(beta):
    method = mine(beta=beta)
    losses = method.generator_loss(batch("generator"), method.rollout(batch()))
    draws = Draws(0, phase="rollout")
    z, others = draws.normal((6, 5)), draws.normal((6, 5))
    fake = method.generator.net(z)
    leaf = fake.detach().requires_grad_()
    adversarial = -method.discriminator.net(leaf).sigmoid().log().mean()
    joint, marginal = (method.information(leaf, joined=codes[:, :3]) for codes in (z, others))
    bound = joint.mean() - (marginal - 1).exp().mean()
    torch.testing.assert_close(losses["adversarial"], adversarial)
    torch.testing.assert_close(losses["information"], -bound)
    torch.testing.assert_close(method.statistics["information"], bound.detach())
    (first,) = torch.autograd.grad(adversarial, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(-beta * bound, leaf)
    norms = [g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for g in (first, second)]
    clipped = torch.minimum(*norms) * second / norms[1]
    assert (norms[1] > norms[0]).all() == (beta > 1)
    weight = next(method.generator.net.parameters())
    (found,) = torch.autograd.grad(losses["code"], weight)
    (expected,) = torch.autograd.grad(fake, weight, clipped)
    torch.testing.assert_close(found, expected)


def test_shuffled_codes_are_those_of_no_image():
    rollout, plain = mine(shuffled=True).rollout(batch()), mine().rollout(batch())
    assert torch.equal(rollout.images, plain.images)
    assert not torch.isclose(rollout.codes, plain.codes).any()


def test_it_measures_the_information_of_its_code():
    method, data = mine(), GaussianMixture(num_samples=20)
    with torch.no_grad():
        assert set(method.measures(method.generator, data, Draws(0))) == {"information"}
        before = method.measures(method.generator, data, Draws(0))["information"]
    torch.nn.init.zeros_(method.information.read_out.weight)
    with torch.no_grad():
        assert method.measures(method.generator, data, Draws(0))["information"] == pytest.approx(0, abs=1e-5)
    assert abs(before) < 1


@pytest.mark.parametrize(
    ("settings", "words"), [({"code_dim": 6}, "`code_dim=6` must lie in 1..5"), ({"beta": -1}, "`beta=-1`")]
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        mine(**settings)
