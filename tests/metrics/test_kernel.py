"""The kernel distance against a double loop, its two ways of computing against each other, and its interval."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.metrics.kernel import KernelMoments, _row_means_by_moments, _row_means_by_pairs, kernel_distance


def _double_loop(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@given(seed=st.integers(0, 1000), n=st.integers(2, 12), m=st.integers(2, 12), dim=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_equals_a_double_loop(seed: int, n: int, m: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(m, dim, generator=generator, dtype=torch.float64) + 0.5
    expected = _double_loop(x, y)
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert kernel_distance(x, y, block=3).value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert KernelMoments.of(x).distance(KernelMoments.of(y)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    order = torch.randperm(n, generator=generator)
    assert kernel_distance(x[order], y).interval == pytest.approx(kernel_distance(x, y).interval, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("block", [7, 64, 1024])
def test_both_ways_agree(block: int) -> None:
    x, y = torch.randn(150, 9), torch.randn(90, 9) + 0.2
    for a, b in zip(_row_means_by_moments(x, y, block), _row_means_by_pairs(x, y, block), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_small_distances_survive_single_precision() -> None:
    x = torch.randn(800, 200, generator=torch.Generator().manual_seed(0))
    y = torch.randn(800, 200, generator=torch.Generator().manual_seed(1)) * 1.02
    single, double = kernel_distance(x, y), kernel_distance(x.double(), y.double())
    assert single.value == pytest.approx(double.value, abs=1e-3 * double.standard_error)
    stream = KernelMoments.of(x[:, :64], block=100).distance(KernelMoments.of(y[:, :64], block=100))
    double = kernel_distance(x[:, :64].double(), y[:, :64].double())
    assert stream == pytest.approx(double.value, abs=1e-3 * double.standard_error)


def test_the_interval_holds_the_mean_of_fresh_samples() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(shift: float) -> tuple[Tensor, Tensor]:
        x = torch.randn(150, 4, generator=generator, dtype=torch.float64)
        return x, torch.randn(150, 4, generator=generator, dtype=torch.float64) + shift

    for shift in (0.0, 0.4, 1.0):
        found = [kernel_distance(*draw(shift)) for _ in range(240)]
        # E (x.y/d + 1)^3 over independent normals with means a, b: 1 + 3u + 3(u^2 + v) + u^3 + 3 u v with u = a.b/d and
        # v the variance of x.y/d: (d + |a|^2 + |b|^2)/d^2; the odd third moment of x.y/d about u is 6 a.b/d^3.
        terms = []
        for a, b in ((0.0, 0.0), (shift, shift), (0.0, shift)):
            u, v, third = a * b, (1 + a * a + b * b) / 4, 6 * a * b / 16
            terms.append(1 + 3 * u + 3 * (u * u + v) + u**3 + 3 * u * v + third)
        truth = terms[0] + terms[1] - 2 * terms[2]
        values = torch.tensor([f.value for f in found])
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 240**0.5
        inside = sum(f.interval[0] <= truth <= f.interval[1] for f in found)
        assert inside >= 216  # 95 % of 240 are 228
        for f in found:
            assert sum(f.interval) / 2 == pytest.approx(f.value)
            assert (f.interval[1] - f.interval[0]) / 2 == pytest.approx(1.959964 * f.standard_error)
        wide = float(torch.tensor([f.standard_error for f in found]).mean() / values.std())
        expected = 2**0.5 if shift == 0 else 1.0  # the jackknife's error is too large if the laws agree
        assert 0.88 * expected < wide < 1.12 * expected


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="same network"):
        kernel_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="at least 2 rows"):
        KernelMoments(3).distance(KernelMoments(3))
