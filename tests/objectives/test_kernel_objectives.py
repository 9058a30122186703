"""Kernels: the discrepancy of known distributions, unbiasedness, matched means, the penalty on the witness."""

import math

import pytest
import torch

from sparring.data import Draws
from sparring.objectives import (
    MMD,
    Distance,
    FeatureMatching,
    GaussianMixtureKernel,
    Hinge,
    Linear,
    RationalQuadratic,
    Scores,
    WitnessPenalty,
    squared_mmd,
)

KERNELS = [RationalQuadratic(), GaussianMixtureKernel(), Distance(), Linear()]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def double_loop(k, x, y):
    """The estimate as it is written, with k a function of two vectors."""
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    same = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / len(pairs)
    return same - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize(
    ("kernel", "k"),
    [
        (
            RationalQuadratic(exponents=[0.2, 2.0], dot=3.0),
            lambda a, b: sum((1 + (a - b).square().sum() / (2 * e)) ** -e for e in (0.2, 2.0)) + 3 * a @ b,
        ),
        (
            GaussianMixtureKernel(variances=[1, 4]),
            lambda a, b: sum(torch.exp(-(a - b) @ (a - b) / (2 * s)) for s in (1, 4)),
        ),
        (Distance(), lambda a, b: -(a - b).norm()),
        (Linear(), lambda a, b: a @ b),
    ],
)
def test_the_estimate_is_its_double_loop(kernel, k):
    x, y = normal(5, 3), normal(5, 3, seed=1) + 0.5
    torch.testing.assert_close(squared_mmd(kernel, x, y), double_loop(k, x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_equal_distributions_it_is_zero_in_the_mean(kernel):
    """Over 1000 draws within 3 standard errors, so some are below 0; the biased one is not."""
    draws = normal(1000, 2, 6, 2)
    found = torch.stack([squared_mmd(kernel, x, y) for x, y in draws])
    assert abs(found.mean()) < 3 * found.std() / 1000**0.5
    assert (found < 0).any()


def test_two_gaussians_have_a_closed_form():
    """N(0, I), N(m, I) in d = 2, |m| = 1, variance 1: 2 (1/3)^{d/2} (1 - exp(-1/6)) = 0.1023."""
    x, y = normal(1500, 2), normal(1500, 2, seed=1) + torch.tensor([0.6, 0.8])
    expected = 2 * (1 / 3) * (1 - math.exp(-1 / 6))
    assert expected == pytest.approx(0.1023, abs=1e-4)
    assert squared_mmd(GaussianMixtureKernel(variances=[1]), x, y).item() == pytest.approx(expected, abs=0.02)


def test_point_masses_and_means():
    """Point masses a apart have the energy distance 2a; the linear kernel knows only the means."""
    x, y = torch.zeros(3, 1, dtype=torch.float64), torch.full((3, 1), 0.7, dtype=torch.float64)
    assert squared_mmd(Distance(), x, y).item() == pytest.approx(1.4, abs=1e-5)
    assert squared_mmd(Linear(), x, y).item() == pytest.approx(0.49)


def test_of_both_players_and_in_groups():
    """Six rows in groups of 2 are the mean over the three groups, so that any cut of a batch gives the same."""
    real, fake = Scores(normal(6, 1, 2)), Scores(normal(6, 1, 2, seed=1) + 1)
    whole = squared_mmd(RationalQuadratic(), real.logits.flatten(1), fake.logits.flatten(1))
    torch.testing.assert_close(MMD().discriminator(real, fake), -whole)
    torch.testing.assert_close(MMD().generator(fake, real), whole)
    torch.testing.assert_close(MMD().statistics(real, fake), {"mmd": whole})
    grouped = MMD(group=2, kernel=Distance())
    rows = (slice(0, 4), slice(4, 6))
    parts = [grouped.generator(Scores(fake.logits[s]), Scores(real.logits[s])) for s in rows]
    torch.testing.assert_close(grouped.generator(fake, real), (4 * parts[0] + 2 * parts[1]) / 6)
    with pytest.raises(ValueError, match="`group=4` does not divide the 6 rows"):
        MMD(group=4).generator(fake, real)
    with pytest.raises(ValueError, match="scores of `real`"):
        MMD().generator(fake)


def test_equal_rows_have_finite_gradients():
    for kernel in KERNELS:
        x = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
        squared_mmd(kernel, x, torch.ones(4, 2, dtype=torch.float64)).backward()
        assert x.grad.isfinite().all()


def test_feature_matching_is_of_the_means_of_the_hidden_layer():
    h, g = normal(6, 3), normal(6, 3, seed=1).requires_grad_()
    real, fake = Scores(torch.ones(6), hidden=h), Scores(-torch.ones(6), hidden=g)
    objective = FeatureMatching(Hinge())
    expected = (h.mean(0) - g.mean(0)).square().sum()
    torch.testing.assert_close(objective.generator(fake, real), expected)
    assert objective.discriminator(real, fake) == Hinge().discriminator(real, fake)
    pairs = [(h[i : i + 2].mean(0) - g[i : i + 2].mean(0)).square().sum() for i in (0, 2, 4)]
    torch.testing.assert_close(FeatureMatching(Hinge(), group=2).generator(fake, real), sum(pairs) / 3)
    with pytest.raises(ValueError, match="name one to the discriminator"):
        objective.generator(Scores(-torch.ones(6)), real)


class Embedding:
    """h(x) = x A."""

    def __init__(self, a):
        self.a = a

    def logits(self, features, given):
        return features[0] @ self.a


def sides(discriminator, *points):
    leaves = [x.detach().requires_grad_() for x in points]
    return [Scores(discriminator.logits([x], None), [x]) for x in leaves]


@pytest.mark.parametrize("group", [None, 3])
def test_the_witness_of_a_linear_kernel_is_a_plane(group):
    """w(u) = <A u, A (mean x - mean G)>: its slope is |A A^T (mean x - mean G)| everywhere, in each group."""
    a = normal(2, 4).requires_grad_()
    x, y = normal(6, 2, seed=1), normal(6, 2, seed=2) + 1
    found = WitnessPenalty(kernel=Linear(), group=group)(Embedding(a), *sides(Embedding(a), x, y), None, Draws(0))
    means = [(p.mean(0) - q.mean(0)) for p, q in zip(x.split(group or 6), y.split(group or 6), strict=True)]
    expected = torch.stack([((a @ a.T @ m).norm() - 1) ** 2 for m in means]).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, a), torch.autograd.grad(expected, a))  # nothing is detached


def test_the_witness_lies_between_the_rows():
    """Of the Gaussian kernel by numeric differences, at u x + (1 - u) G."""
    eye, kernel = Embedding(torch.eye(2, dtype=torch.float64)), GaussianMixtureKernel(variances=[1])
    x, y = normal(5, 2, seed=1), normal(5, 2, seed=2) + 1
    u = Draws(3).uniform((5,)).double()[:, None]

    def witness(v):
        return kernel(v, x).mean(1) - kernel(v, y).mean(1)

    at, h = u * x + (1 - u) * y, 1e-6
    steps = h * torch.eye(2, dtype=torch.float64)
    slopes = torch.stack([(witness(at + step) - witness(at - step)) / (2 * h) for step in steps], dim=1)
    found = WitnessPenalty(kernel=kernel)(eye, *sides(eye, x, y), None, Draws(3))
    torch.testing.assert_close(found, (slopes.norm(dim=1) - 1).square().mean(), rtol=1e-6, atol=1e-8)


def test_settings():
    for made, words in (
        (lambda: MMD(group=1), "`group=1`"),
        (lambda: RationalQuadratic(exponents=[]), "`exponents=\\[\\]`"),
        (lambda: GaussianMixtureKernel(variances=[1, 0]), "`variances=\\[1, 0\\]`"),
        (lambda: FeatureMatching(Hinge(), group=0), "`group=0`"),
        (lambda: squared_mmd(Linear(), torch.zeros(1, 2), torch.zeros(1, 2)), "at least 2"),
    ):
        with pytest.raises(ValueError, match=words):
            made()


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_leave_autocast(kernel):
    """Squared distances are small differences of large products, which would drown in bfloat16."""
    x, y = 5 + 0.1 * normal(2, 20, 16).float()
    plain = squared_mmd(kernel, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_mmd(kernel, x, y), plain)
