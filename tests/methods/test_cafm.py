"""CAFM: what the best potential sees on Gaussian data, its losses by hand, and what it refuses."""

import pytest
import torch
from method_parts import ClassNet, batch_of, denoiser, opponent_frozen, siamese
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import DenoiserDiscriminator, Discriminator, Given, PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods.tuning.cafm import CAFM
from sparring.networks import MLP
from sparring.process import EDM, VP, AdaptiveTimes, RectifiedFlow

EXACT = torch.zeros(2, 2)
ROTATED = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
STRETCHED = 0.5 * torch.eye(2)


class Velocity(nn.Module):
    """E[v | x_t] of data N(0, I) on the flow, `(2t - 1) x_t / ((1 - t)^2 + t^2)`, a matrix times x_t, and a shift."""

    def __init__(self, matrix, shift=0.0):
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix.double()), shift

    def forward(self, x, time):
        t = time.view(-1, 1, 1, 1) / 1000
        return (2 * t - 1) / ((1 - t) ** 2 + t**2) * x + (x.flatten(1) @ self.matrix.T).view_as(x) + self.shift


class Quadratic(Discriminator):
    """A sum of monomials of x up to the second degree, each times a polynomial of t."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(24, dtype=torch.float64))

    def features(self, x, given, draws):
        return [x]

    def logits(self, features, given):
        x, y = features[0].flatten(1).unbind(1)
        monomials = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        powers = torch.stack([given.t.double() ** n for n in range(4)])
        return torch.einsum("ib,jb,ij->b", monomials, powers, self.weights.view(6, 4))


def best_loss(matrix, shift=0.0, n=10000, **settings):
    """L_D of the best potential of this form, which is one least-squares solve, as the loss is quadratic in it."""
    random = torch.Generator().manual_seed(0)
    points = torch.randn(n, 2, 1, 1, generator=random, dtype=torch.float64)
    generator = Denoiser(Velocity(matrix, shift), RectifiedFlow(), "flow")
    method = CAFM(generator, Quadratic(), potential_weight=0.0, **settings)
    rollout = method.rollout(Batch(points, draws=Draws(0, phase="rollout")))
    weights = method.discriminator.weights

    def loss():
        return method.discriminator_loss(Batch(points, draws=Draws(0)), rollout)["slopes"]

    # L(w) = L(0) + g.w + w'Hw/2: the gradients at the unit vectors are the columns of H
    (at_zero,) = torch.autograd.grad(loss(), weights)
    columns = []
    for i in range(len(weights)):
        weights.data.zero_()[i] = 1
        columns.append(torch.autograd.grad(loss(), weights)[0] - at_zero)
    weights.data = -torch.linalg.pinv(torch.stack(columns), hermitian=True, rtol=1e-9) @ at_zero
    return loss().item()


@pytest.mark.parametrize("derivative", ["reverse", "interval"])
def test_the_best_potential_sees_what_changes_the_marginals_and_nothing_else(derivative):
    """2 is blind. A rotation moves the points and not their law. Potentials of degree 2 bound the optimum from above,
    which is 1.84 for the stretched and 1.74 for the shifted velocity; 0.02 is what 24 weights fit of 10000 points.
    """
    settings = dict(derivative=derivative, interval=0.01)
    assert best_loss(EXACT, **settings) == pytest.approx(2, abs=0.02)
    assert best_loss(ROTATED, **settings) == pytest.approx(2, abs=0.02)
    assert best_loss(STRETCHED, **settings) == pytest.approx(1.84, abs=0.04)
    assert best_loss(EXACT, shift=0.5, **settings) == pytest.approx(1.74, abs=0.04)


def test_a_potential_that_stands_still_in_time_sees_less():
    moving, still = (best_loss(STRETCHED, move_time=move) for move in (True, False))
    assert moving + 0.02 < still < 1.98


def test_descent_goes_to_the_mean_velocity():
    """Shifted by delta with data N(0, I), the optimum is g* ~ C^-1 (m - u), so the generator's shift goes down."""
    net = Velocity(EXACT, shift=nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    method = CAFM(Denoiser(net, RectifiedFlow(), "flow"), Quadratic())
    method.discriminator.weights.data[4] = -1.0  # D = -x, down along the shift
    batch = Batch(torch.randn(64, 2, 1, 1, dtype=torch.float64), draws=Draws(0))
    loss = method.generator_loss(batch, method.rollout(batch))["slope"]
    assert torch.autograd.grad(loss, net.shift)[0] > 0


class Constant(nn.Module):
    """One velocity u everywhere."""

    def __init__(self, u):
        super().__init__()
        self.u = nn.Parameter(torch.tensor(u, dtype=torch.float64))

    def forward(self, x, time):
        return torch.zeros_like(x) + self.u.view(1, 2, 1, 1)


def test_the_best_slope_and_what_it_asks_of_the_velocity_by_hand():
    """With m and C of the real velocities, delta = m - u and q = delta' C^-1 delta, the best linear potential has the
    slope 2/(2+q) C^-1 delta and L_D = 4/(2+q), 2 if it is blind; the velocity is asked for -8(1+q)/(2+q)^2 C^-1 delta.
    """
    net = Constant([0.3, -0.2])
    method = CAFM(Denoiser(net, RectifiedFlow(), "flow"), Quadratic(), potential_weight=0.0)
    points = 0.7 * torch.randn(500, 2, 1, 1, dtype=torch.float64) + 1
    batch = Batch(points, draws=Draws(0, phase="rollout"))
    rollout = method.rollout(batch)
    real = rollout.real.flatten(1).double()
    m, covariance = real.mean(0), real.T.cov(correction=0)
    towards = torch.linalg.solve(covariance, m - net.u.detach())
    q = (m - net.u.detach()) @ towards
    slope = 2 / (2 + q) * towards
    weights = method.discriminator.weights
    weights.data[[4, 8, 1]] = torch.stack([*slope, q / (2 + q) - slope @ m])  # of x, y and t
    loss = method.discriminator_loss(batch, rollout)["slopes"]
    assert loss.item() == pytest.approx(4 / (2 + q).item(), rel=1e-5)
    assert torch.autograd.grad(loss, weights, retain_graph=True)[0][[4, 8, 1]].abs().max() < 1e-5  # the best one
    (asked,) = torch.autograd.grad(method.generator_loss(batch, rollout)["slope"], net.u)
    torch.testing.assert_close(asked, -8 * (1 + q) / (2 + q) ** 2 * towards, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(), "flow"), (EDM(), "edm")])
def test_losses_by_hand_on_every_path(process, kind):
    """Slopes against a central difference of the potential along the path; the real one is the path itself."""
    method = CAFM(denoiser(process=process, kind=kind), Smooth(), potential_weight=0.1, velocity_weight=0.2)
    rollout = method.rollout(batch_of())
    noised, given, h = rollout.noised, dict(draws=Draws(0)), 1e-4

    def potential(x, t):
        return method.discriminator(x, Given(t=t), **given)

    def slope(w):
        ahead, behind = (potential(noised.x_t + s * h * w, noised.t + s * h) for s in (1, -1))
        return (ahead - behind) / (2 * h)

    real, fake = slope(rollout.real), slope(rollout.fake)
    along_path = [process.add_noise(noised.x_0, noised.eps, noised.t.double() + s * h) for s in (1, -1)]
    inside = (noised.t > 0.01) & (noised.t < 0.99)
    expected = (along_path[0] - along_path[1]) / (2 * h)
    torch.testing.assert_close(rollout.real[inside], expected[inside], rtol=2e-2, atol=2e-2)
    losses = method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    tight = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["slopes"], ((real - 1) ** 2 + (fake + 1) ** 2).mean(), **tight)
    level = potential(noised.x_t, noised.t).square().mean()
    torch.testing.assert_close(losses["potential"], 0.1 * level, **tight)
    losses = method.generator_loss(batch_of(phase="generator"), rollout)
    torch.testing.assert_close(losses["slope"], ((fake - 1) ** 2).mean(), **tight)
    torch.testing.assert_close(losses["velocity"], 0.2 * rollout.fake.square().mean(), **tight)


class Smooth(Discriminator):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(17, 1).double()

    def features(self, x, given, draws):
        return [x]

    def logits(self, features, given):
        x = torch.cat([features[0].flatten(1), given.t.double()[:, None]], 1)
        return self.layer(x.tanh()).squeeze(1)


def test_each_player_learns_from_its_own_loss():
    method = CAFM(denoiser(), Smooth())
    rollout = method.rollout(batch_of())
    method.discriminator_loss(batch_of(), rollout)["slopes"].backward()
    assert all(p.grad is None for p in method.generator.parameters())
    before = method.discriminator.layer.weight.grad.clone()
    with opponent_frozen(method):
        method.generator_loss(batch_of(), rollout)["slope"].backward()
    assert torch.equal(method.discriminator.layer.weight.grad, before)
    assert all(p.grad is not None for p in method.generator.parameters())


# -- the potential as a copy of the denoiser ---------------------------------------------------------------------------


def copied(process, kind, **settings):
    torch.manual_seed(0)
    return DenoiserDiscriminator(Denoiser(MLP(width=8, **settings).double(), process, kind)).double()


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(), "flow"), (EDM(), "edm")])
def test_the_slope_in_time_of_a_copy_is_there_on_the_levels_of_a_table_too(process, kind):
    """A VP process rounds times to its levels, where a derivative by autograd would be 0."""
    discriminator, h = copied(process, kind), 1e-3
    x, t = torch.randn(3, 2, 1, 1, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    moved = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(x, Given(t=moved), Draws(0)).sum(), moved)
    ahead, behind = (discriminator(x, Given(t=t + s * h), Draws(0)) for s in (1, -1))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=0.3, atol=0.05 * float(slope.abs().max()))
    assert float(slope.abs().min()) > 0


def test_a_copy_takes_labels_and_what_it_cannot_read_is_refused():
    discriminator = copied(VP(), "v", num_class_embeds=3)
    x, t = torch.randn(2, 2, 1, 1, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    one, two = (discriminator(x, Given(t=t, condition=torch.full((2,), label)), Draws(0)).detach() for label in (0, 1))
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="needs the times"):
        discriminator(x, Given(condition=torch.zeros(2, dtype=torch.long)), Draws(0))
    with pytest.raises(ValueError, match="no last layer is known of a ClassNet"):
        DenoiserDiscriminator(denoiser(ClassNet()))
    with pytest.raises(ValueError, match="latent z"):
        DenoiserDiscriminator(Denoiser(MLP(width=8), VP(), "v", latent_dim=2))


def test_both_networks_are_told_the_same_condition_if_classes_are_left_out():
    """Of rows without a class, the potential would else tell the velocity from that of the class."""
    torch.manual_seed(0)
    net = MLP(width=8, num_class_embeds=3)
    method = CAFM(Denoiser(net, RectifiedFlow(), "flow", condition_dropout=0.5))
    told: list[torch.Tensor] = []
    for part in (method.generator.net, method.discriminator.denoiser.net):
        part.register_forward_pre_hook(lambda _, given, named: told.append(named["class_labels"]), with_kwargs=True)
    points = torch.randn(64, 2, 1, 1)
    batch = Batch(points, torch.arange(64) % 2, Draws(0))
    rollout = method.rollout(batch)
    method.discriminator_loss(batch, rollout)
    method.generator_loss(batch, rollout)
    first, *others = told
    assert 16 < int((first == 2).sum()) < 48  # the last class is "none"
    assert len(others) == 2
    assert all(torch.equal(first, other) for other in others)


def test_what_it_refuses():
    plain = PlainDiscriminator(net=nn.Flatten())
    for settings, message in [
        (dict(potential_weight=-1.0), "potential_weight=-1"),
        (dict(derivative="forward"), "derivative=forward"),
        (dict(interval=0.0), "interval=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            CAFM(denoiser(), plain, **settings)
    with pytest.raises(ValueError, match="compares fakes"):
        CAFM(denoiser(), siamese())
    method = CAFM(denoiser(), plain)
    with pytest.raises(ValueError, match="does not depend on `t`"):
        method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    with pytest.raises(ValueError, match="AdaptiveTimes"):
        CAFM(denoiser(), plain, times=AdaptiveTimes()).rollout(batch_of())


def test_the_two_ends_of_an_interval_have_the_same_dropout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1)).double()

    class Dropping(Discriminator):
        def features(self, x, given, draws):
            return [x]

        def logits(self, features, given):
            return net(torch.cat([features[0].flatten(1), given.t[:, None]], dim=1))[:, 0]

    slopes = []
    for derivative in ("reverse", "interval"):
        method = CAFM(
            Denoiser(Velocity(EXACT), RectifiedFlow(), "flow"), Dropping(), derivative=derivative, interval=0.01
        )
        given = Batch(torch.randn(8, 2, 1, 1, generator=torch.Generator().manual_seed(0)).double(), draws=Draws(0))
        torch.manual_seed(1)
        rollout = method.rollout(given)
        slopes.append(method.slopes(given, rollout, rollout.real)[1][0])
    torch.testing.assert_close(*slopes, rtol=0.05, atol=0.05)
