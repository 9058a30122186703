"""The Brownian bridge: its law, its steps, and the fitting of Gaussians by iteration."""

import pytest
import torch

from sparring.process.bridge import bridge, bridge_posterior

N = 200_000  # 4 standard errors of a mean square are 0.013


def normal(seed, n=N):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(t, n=N):
    return torch.full((n,), t, dtype=torch.float64)


def test_the_bridge_has_the_mean_and_variance_of_brownian_motion_between_two_ends():
    x_0, x_1 = torch.full((N,), -1.0, dtype=torch.float64), torch.full((N,), 2.0, dtype=torch.float64)
    x = bridge(x_0, x_1, times(0.25), normal(0), 0.8)
    assert x.mean().item() == pytest.approx(0.75 * -1 + 0.25 * 2, abs=0.01)
    assert x.var().item() == pytest.approx(0.8 * 0.25 * 0.75, rel=0.02)
    for end, t in ((x_0, 0.0), (x_1, 1.0)):
        assert torch.equal(bridge(x_0, x_1, times(t), normal(0), 0.8), end)


def test_a_step_back_from_the_bridge_lies_on_the_bridge():
    """x_s of x_0 and x_t has the variance of the bridge at s and its covariance with x_t, s (1 - t) variance."""
    x_0, x_1, s, t, variance = 0.3 * normal(1), 2 + normal(2), 0.25, 0.75, 0.5
    x_t = bridge(x_0, x_1, times(t), normal(3), variance)
    mean, std = bridge_posterior(x_0, x_t, times(s), times(t), variance)
    x_s = mean + std * normal(4)
    own, later = x_s - (1 - s) * x_0 - s * x_1, x_t - (1 - t) * x_0 - t * x_1
    assert own.square().mean().item() == pytest.approx(variance * s * (1 - s), rel=0.02)
    assert (own * later).mean().item() == pytest.approx(variance * s * (1 - t), rel=0.05)
    mean, std = bridge_posterior(x_0, x_t, times(0.0), times(t), variance)
    assert torch.equal(mean, x_0)
    assert std.max() == 0


def test_iterated_fitting_of_gaussians_goes_to_the_schroedinger_bridge():
    """N(0, 1) to N(0, 1), variance 1, one level 1/2: the covariance of the ends goes from 0 to 0.618.

    Each round: a bridge between the pairs, regressions of its neighbours, and new pairs drawn along them, with
    c <- ((1 + c) / 2)^2 / ((1 + c) / 2 + 1/4).
    """
    x_0, x_1, found = normal(5), normal(6), []
    for number, expected in enumerate([0.3333, 0.4848, 0.5554, 0.5885, 0.6041]):
        x_h = bridge(x_0, x_1, times(0.5), normal(10 + number), 1.0)
        slopes = [(a * b).mean() / b.square().mean() for a, b in ((x_h, x_1), (x_0, x_h))]
        spread = [(a - k * b).std() for k, (a, b) in zip(slopes, ((x_h, x_1), (x_0, x_h)), strict=True)]
        real = x_1
        x_h = slopes[0] * real + spread[0] * normal(20 + number)
        x_0 = slopes[1] * x_h + spread[1] * normal(30 + number)
        found.append((x_0 * x_1).mean().item())
        assert found[-1] == pytest.approx(expected, abs=0.015)
    assert found == sorted(found)
