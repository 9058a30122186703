"""TwinFlow: the difference of the branches of two Gaussians, fixed points of the base term, signs, what it refuses."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.twinflow import Twin, TwinFlow, velocity
from sparring.networks import MLP
from sparring.process import VP, RectifiedFlow, StudentT


class Branches(nn.Module):
    """The velocities of N(m, s^2) at positive times and of N(b, s^2) at negative ones; at |t| = 1 what `one` says."""

    def __init__(self, m, b, s):
        super().__init__()
        self.m, self.b, self.s = m, b, s
        self.one = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, time):
        t = time.to(x).abs()[:, None, None, None] / 1000
        mean = torch.where(time[:, None, None, None] < 0, self.b, self.m)
        spread = (1 - t) ** 2 * self.s**2 + t**2
        x_0 = mean + (1 - t) * self.s**2 / spread * (x - (1 - t) * mean)
        return torch.where(t > 0.9999, self.one.expand_as(x), (x - x_0) / t)


class Constant(nn.Module):
    """The same velocity everywhere."""

    def __init__(self, k):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, x, time):
        return self.k.expand_as(x)


class PointMass(nn.Module):
    """(x - 0.3) / t, which is the velocity of a point's flow and its mean over every interval below t."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.full((), 0.3, dtype=torch.float64))

    def forward(self, x, time):
        return (x - self.point) / (time.to(x) / 1000)[:, None, None, None]


class NoSlot:
    """In place of a `TimeSlot`, for networks that need no length."""

    def given(self, length):
        from contextlib import nullcontext

        return nullcontext()


def method(net, **settings):
    denoiser = Denoiser(net, RectifiedFlow(), "flow")
    denoiser.time_slot = NoSlot()
    return TwinFlow(denoiser, **settings)


def batch(x_0=0.3, n=64, seed=0):
    images = torch.full((n, 1, 1, 2), x_0, dtype=torch.float64)
    return Batch(images, draws=Draws(seed, phase="rollout"))


def twin(s, x_s, one_call):
    zero = torch.zeros_like(x_s)
    return Twin(x_s, zero, s, s, one_call, x_s, zero, s)


def test_the_branches_of_two_gaussians_differ_by_a_constant_that_points_to_the_data():
    """(m - b) t / ((1 - t)^2 s^2 + t^2) = 1.105 for m - b = 0.8, s = 0.6, t = 0.4."""
    net, x = Branches(1.0, 0.2, 0.6), torch.linspace(-2, 2, 8, dtype=torch.float64).view(4, 1, 1, 2)
    denoiser, t = Denoiser(net, RectifiedFlow(), "flow"), torch.full((4,), 0.4, dtype=torch.float64)
    fake, real = (velocity(denoiser, x, t, None, None, sign=sign) for sign in (-1, 1))
    torch.testing.assert_close(fake - real, torch.full_like(x, 0.8 * 0.4 / (0.36 * 0.36 + 0.16)))
    assert (fake - real)[0, 0, 0, 0].item() == pytest.approx(1.105, abs=1e-3)


@pytest.mark.parametrize(("flipped", "sign"), [(False, 1), (True, -1)])
def test_descent_moves_one_call_samples_by_the_difference(flipped, sign):
    """Samples z - F at 0.2 of data at 0.5: the gradient at F is 2 Delta / n, so that a step takes the samples up."""
    one = method(Branches(0.5, 0.2, 0.6), fake_weight=0.0, flipped=flipped)
    s, x = torch.full((4,), 0.4, dtype=torch.float64), torch.zeros(4, 1, 1, 2, dtype=torch.float64)
    one_call = torch.zeros_like(x).requires_grad_()
    losses = one.generator_loss(batch(n=4), twin(s, x, one_call))
    (gradient,) = torch.autograd.grad(losses["rectify"], one_call)
    delta = 0.3 * 0.4 / (0.36 * 0.36 + 0.16)
    torch.testing.assert_close(gradient, torch.full_like(x, sign * 2 * delta / x.numel()))
    large = method(Branches(5.0, 0.2, 0.6), fake_weight=0.0).generator_loss(batch(n=4), twin(s, x, one_call))
    assert large["rectify"].item() == pytest.approx(1.0)  # held at 1


def test_branches_that_agree_move_nothing():
    one = method(Branches(0.5, 0.5, 0.6))
    losses = one.generator_loss(batch(n=4), one.rollout(batch(n=4)))
    assert losses["rectify"].item() == pytest.approx(0, abs=1e-20)


def test_the_exact_mean_velocity_is_a_fixed_point_of_the_base_term():
    one = method(PointMass())
    rollout = one.rollout(batch())
    assert {int((rollout.r == 0).sum()) > 0, int((rollout.r == rollout.t).sum()) > 0} == {True}
    assert one.base(rollout, None).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("k", [-0.4, 0.2])
def test_of_a_constant_velocity_the_base_term_is_its_error(k):
    """A constant adds up over every interval, whatever r: what is left is (k - v)^2, each at most 1."""
    one = method(Constant(k))
    rollout = one.rollout(batch())
    expected = (k - rollout.v).clamp(-1, 1).square().mean()
    torch.testing.assert_close(one.base(rollout, None), expected, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(one.base(rollout, None), one.generator.net.k)
    torch.testing.assert_close(slope, 2 * (k - rollout.v).clamp(-1, 1).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("interval", [0.01, 0.1])
def test_what_the_average_differs_by_counts_over_the_interval(interval):
    """A network k and its average a: ((t - r) k - (t - r - h) a) / h, h at most the interval and the whole step."""
    one = method(Constant(0.1), interval=interval)
    one.target.module.net.k.data.fill_(0.1005)
    rollout = one.rollout(batch())
    length = (rollout.t - rollout.r).view(-1, 1, 1, 1)
    h = length.clamp(max=interval)
    slope = torch.where(h > 0, (length * 0.1 - (length - h) * 0.1005) / h.clamp(min=1e-9), 0.1)
    expected = (slope - rollout.v).clamp(-1, 1).square().mean()
    torch.testing.assert_close(one.base(rollout, None), expected, rtol=1e-4, atol=1e-6)


def test_rows_are_of_three_kinds():
    rollout = method(Constant(0.1)).rollout(batch(n=3000))
    whole, flow = (rollout.t == 1) & (rollout.r == 0), rollout.t == rollout.r
    between = ~whole & ~flow
    assert [kind.double().mean().item() for kind in (whole, flow, between)] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert (rollout.r[between] < rollout.t[between]).all()


def test_the_fake_branch_learns_the_velocity_of_own_samples_at_negative_times():
    one = method(Constant(0.25), rectify_weight=0.0, fake_weight=2.0)
    times = []
    one.generator.net.register_forward_pre_hook(lambda layer, given: times.append(given[1]))
    rollout = one.rollout(batch())
    assert not rollout.x_s.requires_grad
    assert not rollout.v_s.requires_grad
    del times[:]
    losses = one.generator_loss(batch(), rollout)
    torch.testing.assert_close(losses["fake"], 2 * (0.25 - rollout.v_s).square().mean())
    torch.testing.assert_close(times[-1], -1000 * rollout.s.to(times[-1]))
    sample = rollout.x_s - rollout.s.view(-1, 1, 1, 1) * rollout.v_s  # x_s = xhat + s (z' - xhat)
    assert sample.std().item() == pytest.approx(1, abs=0.2)  # z - 0.25
    assert sample.mean().item() == pytest.approx(-0.25, abs=0.3)


def test_without_its_branches_only_the_base_is_left():
    one = method(Constant(0.1), fake_weight=0.0, rectify_weight=0.0)
    assert list(one.generator_loss(batch(), one.rollout(batch()))) == ["base"]


def test_the_target_goes_a_share_of_the_way():
    one = method(Constant(0.0), target_decay=0.9)
    one.generator.net.k.data.fill_(1.0)
    one.after_step()
    assert one.target.module.net.k.item() == pytest.approx(0.1)


def test_what_it_refuses():
    flow = Denoiser(MLP(width=8), RectifiedFlow(), "flow")
    with pytest.raises(ValueError, match="second_time"):
        TwinFlow(flow)
    with pytest.raises(ValueError, match="process=VP.*TwinFlow is a flow"):
        TwinFlow(Denoiser(MLP(width=8), VP(), "v", second_time=True))
    with pytest.raises(ValueError, match="`denoiser.start=StudentTStart`: this method starts from pure noise"):
        TwinFlow(Denoiser(MLP(width=8), RectifiedFlow(kernel=StudentT()), "flow", second_time=True))
    with pytest.raises(ValueError, match="interval=0"):
        method(Constant(0.0), interval=0.0)
    with pytest.raises(ValueError, match="target_decay=1"):
        method(Constant(0.0), target_decay=1.0)
    with pytest.raises(ValueError, match="fake_weight=-1"):
        method(Constant(0.0), fake_weight=-1.0)
