"""The Frechet distance against closed forms, scipy's matrix root and its own invariances."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.metrics.frechet import (
    Gaussian,
    frechet_between,
    frechet_distance,
    frechet_interval,
    frechet_of_features,
    frechet_resamples,
    root,
)
from sparring.metrics.moments import Moments


def _covariance(dim: int, seed: int, rank: int | None = None) -> Tensor:
    factor = torch.randn(dim, rank or dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


def test_commuting_gaussians_have_a_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.25])
    m = torch.tensor([1.0, -2.0, 0.5])
    expected = float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned = [rotation @ torch.diag(v).double() @ rotation.T for v in (a, b)]
    assert frechet_distance(m, torch.diag(a), torch.zeros(3), torch.diag(b)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(rotation @ m.double(), turned[0], torch.zeros(3), turned[1]) == pytest.approx(expected)


@pytest.mark.parametrize("dim", [1, 5, 40])
def test_equals_the_root_of_the_product(dim: int) -> None:
    a, b = _covariance(dim, 1), _covariance(dim, 2)
    expected = float(a.trace() + b.trace()) - 2 * np.trace(scipy.linalg.sqrtm((a @ b).numpy())).real
    assert frechet_distance(torch.zeros(dim), a, torch.zeros(dim), b) == pytest.approx(expected, rel=1e-9)


def test_known_samples_of_two_gaussians() -> None:
    x = torch.randn(20000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = 2 * torch.randn(20000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    assert frechet_of_features(x, y) == pytest.approx(4 + 4, rel=0.03)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_singular_covariances(rank: int) -> None:
    a = _covariance(10, 3, rank)
    assert root(a).shape[1] <= 10
    torch.testing.assert_close(root(a) @ root(a).T, a, rtol=1e-9, atol=1e-9)
    zero = torch.zeros(10, 10)
    origin = torch.zeros(10)
    assert frechet_distance(origin, a, origin, zero) == pytest.approx(float(a.trace()), rel=1e-9)
    assert frechet_distance(origin, a, origin, 4 * a) == pytest.approx(float(a.trace()), rel=1e-6)
    assert frechet_distance(origin, a, origin, a) <= 1e-9 * float(a.trace())


def test_fewer_rows_than_features() -> None:
    x, y = torch.randn(20, 50), torch.randn(30, 50)
    value = frechet_of_features(x, y)
    a, b = Moments.of(x), Moments.of(y)
    product = scipy.linalg.sqrtm((a.covariance + 1e-9 * torch.eye(50)).numpy() @ b.covariance.numpy())
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * product.trace().real
    assert value == pytest.approx(float(expected), rel=1e-3)
    assert frechet_of_features(x, x) < 1e-9


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_symmetry_permutation_and_scale(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(30, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    value = frechet_of_features(x, y)
    assert value >= 0
    assert frechet_of_features(y, x) == pytest.approx(value, rel=1e-9)
    assert frechet_of_features(x[torch.randperm(30, generator=generator)], y) == pytest.approx(value, rel=1e-9)
    assert frechet_of_features(scale * x, scale * y) == pytest.approx(scale**2 * value, rel=1e-9)


def test_the_interval_holds_the_swing_of_fresh_samples() -> None:
    """As often as it says, neither less nor more, and what it misses lies on both sides."""
    generator = torch.Generator().manual_seed(0)
    reference = Gaussian.of(Moments.of(torch.randn(4000, 4, generator=generator)))
    samples = [torch.randn(100, 4, generator=generator) * 1.2 + 0.4 for _ in range(150)]
    values = [frechet_between(Gaussian.of(Moments.of(x)), reference) for x in samples]
    mean = sum(values) / len(values)
    intervals = [interval(x, reference) for x in samples]
    below, above = sum(high < mean for _, high in intervals), sum(low > mean for low, _ in intervals)
    assert 2 <= below + above <= 18  # 7.5 of 150 at 95 %; three deviations above are 15.5, and 60 resamples are few
    assert max(below, above) <= 12
    swing = float(torch.tensor(values).std())
    widths = torch.tensor([high - low for low, high in intervals])
    assert 0.85 < float(widths.mean()) / (2 * 1.96 * swing) < 1.15
    centres = torch.tensor([(low + high) / 2 for low, high in intervals])
    assert abs(float((centres - torch.tensor(values)).mean())) < 0.35 * swing  # percentiles are a little skewed
    assert interval(samples[0], reference) == intervals[0]


def interval(x: torch.Tensor, reference: Gaussian) -> tuple[float, float]:
    distance = frechet_between(Gaussian.of(Moments.of(x)), reference)
    return frechet_interval(distance, frechet_resamples(x, reference, resamples=60))


def test_resamples_of_images_from_the_same_latents_swing_together() -> None:
    """As the distances of fresh latents do: the spread of the difference, and not that of each of them."""
    generator = torch.Generator().manual_seed(0)
    reference = Gaussian.of(Moments.of(torch.randn(4000, 4, generator=generator)))
    differences, spreads, of_one = [], [], []
    for _ in range(100):
        latents = torch.randn(100, 4, generator=generator)
        pair = [1.2 * latents + 0.4, 1.2 * latents + 0.4 + 0.2 * torch.randn(100, 4, generator=generator)]
        near, far = (frechet_between(Gaussian.of(Moments.of(x)), reference) for x in pair)
        differences.append(far - near)
        drawn = [frechet_resamples(x, reference) for x in pair]
        spreads.append(float((drawn[1] - drawn[0]).std()))
        of_one.append(float(drawn[0].std()))
    true = float(torch.tensor(differences).std())
    assert 0.8 < sum(spreads) / len(spreads) / true < 1.25
    assert sum(of_one) / len(of_one) > 2 * true


def test_an_interval_needs_resamples() -> None:
    reference = Gaussian.of(Moments.of(torch.randn(10, 2)))
    with pytest.raises(ValueError, match="resamples=1"):
        frechet_resamples(torch.randn(10, 2), reference, resamples=1)
