"""Neighbour metrics against brute force, on manifolds with a known answer, and in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from sparring.metrics.neighbours import Manifolds, manifolds, memorisation, nearest, radii


def _measure(real: Tensor, fake: Tensor, block: int = 1024) -> Manifolds:
    return manifolds(real, fake, radii(real, block=block), radii(fake, (3,), block=block), block=block)


def _brute_force(real: np.ndarray, fake: np.ndarray) -> Manifolds:
    def radius(x: np.ndarray, k: int) -> np.ndarray:
        return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(cdist(x, x))])

    between = cdist(fake, real)
    in3, in5 = between <= radius(real, 3)[None] + 1e-9, between <= radius(real, 5)[None] + 1e-9
    recalled = between <= radius(fake, 3)[:, None] + 1e-9
    rare = in3.any(1) & (np.sort(between, 1)[:, 4] > np.quantile(radius(real, 5), 0.9) + 1e-9)
    return Manifolds(
        in3.any(1).mean(), recalled.any(0).mean(), in5.sum() / (5 * len(fake)), in5.any(0).mean(), rare.mean()
    )


@given(seed=st.integers(0, 1000), n=st.integers(6, 40), m=st.integers(6, 40), dim=st.integers(1, 6), grid=st.booleans())
@example(seed=0, n=24, m=9, dim=2, grid=True)  # balls of radius 0 around duplicates
@settings(max_examples=30, deadline=None)
def test_equals_brute_force(seed: int, n: int, m: int, dim: int, grid: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, dim, generator=generator)
    fake = torch.randn(m, dim, generator=generator) * 1.2 + 0.3
    if grid:  # many ties and duplicates
        real, fake = real.round(), fake.round()
    expected = _brute_force(real.double().numpy(), fake.double().numpy())
    for block in (5, 1024):
        found = _measure(real, fake, block)
        assert vars(found) == pytest.approx(vars(expected), abs=1e-12)
    order = torch.randperm(m, generator=generator)
    assert vars(_measure(real, fake[order])) == pytest.approx(vars(expected), abs=1e-12)
    far = 1e4  # the same cloud elsewhere: rounding must not decide who is inside
    if grid:
        assert vars(_measure(real + far, fake + far)) == pytest.approx(vars(expected), abs=1e-12)


@given(seed=st.integers(0, 1000), n=st.integers(2, 30), m=st.integers(1, 30), dim=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_nearest_equals_brute_force(seed: int, n: int, m: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, dim, generator=generator), torch.randn(m, dim, generator=generator)
    distance, index = nearest(x, y, block=4)
    expected = cdist(x.double().numpy(), y.double().numpy())
    np.testing.assert_allclose(distance.numpy(), expected.min(1), rtol=1e-12, atol=1e-12)
    assert (index.numpy() == expected.argmin(1)).all()


def test_a_line_with_a_known_answer() -> None:
    # Reals at 0, 1, .. 99. Fakes: 50 between the first of them (0.5, 1.5, .. 49.5), and 50 far away.
    # Third neighbours lie 2 away (3 at the ends): the fakes near the line are in, and they reach up to 49.5 + 3 = 52.5.
    # Fifth neighbours of reals lie 3 away (5, 4 at the ends): 300 pairs of a ball and a fake in it.
    real = torch.arange(100.0)[:, None]
    fake = torch.cat([torch.arange(50) + 0.5, torch.arange(50) + 1000.0])[:, None]
    assert vars(_measure(real, fake)) == pytest.approx(
        {"precision": 0.5, "recall": 0.53, "density": 300 / 500, "coverage": 0.53, "rare_share": 0.01}, abs=0
    )


def test_two_circles_with_a_known_answer() -> None:
    def ring(n: int, radius: float, offset: float = 0.0) -> Tensor:
        angle = (torch.arange(n, dtype=torch.float64) + offset) * 2 * torch.pi / n
        return radius * torch.stack([angle.cos(), angle.sin()], 1)

    real = torch.cat([ring(60, 1.0), ring(60, 3.0)])
    on_one = ring(60, 1.0, 0.5)
    centre = 0.001 * torch.randn(60, 2, dtype=torch.float64)
    assert vars(_measure(real, on_one)) == pytest.approx(
        {"precision": 1, "recall": 0.5, "density": 6 / 5, "coverage": 0.5, "rare_share": 0}
    )
    both = _measure(real, torch.cat([on_one, centre]))
    assert (both.precision, both.recall, both.coverage) == (0.5, 0.5, 0.5)


def test_copies_are_inside_and_close() -> None:
    train, holdout = torch.randn(200, 8), torch.randn(100, 8)
    copied = memorisation(train[:50], train, holdout)
    assert copied.memorisation == 0
    assert copied.train_share == 1
    assert copied.train_share_expected == pytest.approx(2 / 3)
    assert [fake == real for fake, real, _ in copied.closest_pairs] == [True] * 8
    assert memorisation(train[:50], train, train[50:90]).memorisation is None
    near = train[:50] + 0.01 * torch.randn(50, 8)
    near[17] = train[123]
    assert memorisation(near, train, holdout, pairs=1).closest_pairs == [(17, 123, 0.0)]
    same = _measure(train, train)
    assert (same.precision, same.recall, same.density, same.coverage) == pytest.approx((1, 1, 6 / 5, 1), rel=0.01)


def test_real_images_have_a_tenth_of_rare_ones_and_few_of_their_balls_hold_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    real, other = torch.randn(2, 1000, 4, generator=generator)
    found = _measure(real, other)
    assert 0.02 < found.rare_share < 0.1  # some of the tenth lie in no ball
    assert _measure(real, 0.3 * other).rare_share == 0  # the middle
    assert _measure(real, 1000 + other).rare_share == 0  # rare, and not among them


def test_fresh_samples_show_no_sign_of_copying() -> None:
    generator = torch.Generator().manual_seed(0)
    train, holdout, fresh = (torch.randn(n, 8, generator=generator) for n in (1000, 500, 1000))
    found = memorisation(fresh, train, holdout)
    assert found.memorisation == pytest.approx(1, abs=0.03)
    assert found.train_share == pytest.approx(2 / 3, abs=0.04)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 6"):
        radii(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"expected \[n, d\] and \[m, d\]"):
        nearest(torch.zeros(5, 2), torch.zeros(5, 3))
