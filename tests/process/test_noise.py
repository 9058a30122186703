"""Noise dealt out to images: permutations, brute force, the law of the noise, parts that make the whole."""

import itertools
import math

import pytest
import torch
from scipy.stats import betaprime, kstest

from sparring.data import Batch, Draws
from sparring.process import EDM, VP, Assignment, Gaussian, Independent, Nearest, RectifiedFlow, StudentT
from sparring.rollout import noise

X = torch.randn(96, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def eps_of(coupling, x=X, draws=None):
    return coupling(draws or Draws(3), x, Gaussian())


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_independent_noise_is_what_the_draws_give(process):
    noised = noise(process, Batch(X.double(), draws=Draws(3)), torch.full((96,), 0.5))
    assert torch.equal(noised.eps, Draws(3).normal(X.shape).double())


def test_an_assignment_uses_every_noise_once_and_is_the_best_of_all_permutations():
    plain, eps = eps_of(Independent(), X[:6]), eps_of(Assignment(group=None), X[:6])
    assert sorted(eps[:, 0, 0, 0].tolist()) == sorted(plain[:, 0, 0, 0].tolist())
    best = min(itertools.permutations(range(6)), key=lambda order: (X[:6] - plain[list(order)]).square().sum().item())
    assert torch.equal(eps, plain[list(best)])


def test_assigned_noise_is_nearer_and_normal_all_the_same():
    plain, eps = eps_of(Independent()), eps_of(Assignment(group=None))
    distance = (X - eps).square().mean()
    assert distance < 0.9 * (X - plain).square().mean()
    assert kstest(eps.flatten(), "norm").pvalue > 0.01
    assert (X - eps_of(Assignment(group=8))).square().mean() > distance  # fewer to choose from
    assert (X - eps_of(Assignment(group=8))).square().mean() < (X - plain).square().mean()


def test_nearest_takes_the_nearest_of_its_noises_row_by_row():
    draws = Draws(3)
    candidates = torch.stack([draws.normal(X.shape) for _ in range(4)])
    nearest = (candidates - X).square().flatten(2).sum(2).argmin(0)
    expected = torch.stack([candidates[nearest[row], row] for row in range(len(X))])
    assert torch.equal(eps_of(Nearest(k=4)), expected)
    assert torch.equal(eps_of(Nearest(k=1)), eps_of(Independent()))


def test_the_power_of_nearest_noise_falls_as_stated():
    x = 0.5 * torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert eps_of(Nearest(k=4), x).square().mean().item() == pytest.approx(0.86, abs=0.01)
    assert eps_of(Nearest(k=8), x).square().mean().item() == pytest.approx(0.82, abs=0.01)


def test_images_that_have_a_gradient_get_the_same_noise():
    made = X.clone().requires_grad_()
    assert torch.equal(eps_of(Assignment(group=8), made), eps_of(Assignment(group=8)))


def test_a_batch_smaller_than_a_group_is_one_group():
    assert torch.equal(eps_of(Assignment(group=128)), eps_of(Assignment(group=None)))
    Assignment(group=128).check(96, 96)


def test_what_is_left_of_a_batch_is_a_smaller_group():
    plain, eps = eps_of(Independent()), eps_of(Assignment(group=90))
    rest = eps[90:]
    assert sorted(rest[:, 0, 0, 0].tolist()) == sorted(plain[90:, 0, 0, 0].tolist())
    costs = [(X[90:] - plain[90:][list(order)]).square().sum() for order in itertools.permutations(range(6))]
    torch.testing.assert_close((X[90:] - rest).square().sum(), min(costs))


@pytest.mark.parametrize("coupling", [Nearest(k=3), Assignment(group=8)], ids=["nearest", "assignment"])
def test_parts_of_a_batch_get_the_noise_of_the_whole(coupling):
    whole = eps_of(coupling)
    for rows in (slice(0, 32), slice(32, 96)):
        assert torch.equal(eps_of(coupling, X[rows], Draws(3, rows=rows, total=96)), whole[rows])


def test_an_assignment_that_cannot_see_its_rows_is_refused():
    part = Draws(3, rows=slice(0, 32), total=96)
    with pytest.raises(ValueError, match="deals out the noises of all 96 images and sees 32 at once"):
        eps_of(Assignment(group=None), X[:32], part)
    Assignment(group=10).check(96, 96)
    with pytest.raises(ValueError, match="`coupling.group=64`.* a batch of 96 images 32 are seen at once"):
        eps_of(Assignment(group=64), X[:32], part)
    with pytest.raises(ValueError, match="`group=1`"):
        Assignment(group=1)
    with pytest.raises(ValueError, match="`k=0`"):
        Nearest(k=0)


def test_an_assignment_works_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eps = eps_of(Assignment(group=None))
    assert torch.equal(eps, eps_of(Assignment(group=None)))


@pytest.mark.parametrize("dimension", [8, 32])
def test_student_noise_has_the_radii_and_the_variance_of_pfgmpp(dimension):
    """R^2 = D BetaPrime(N / 2, D / 2), and D / (D - 2) for each number."""
    eps = StudentT(dimension=dimension)(Draws(5), (20000, 1, 4, 4))
    radii = eps.double().square().flatten(1).sum(1) / dimension
    assert kstest(radii, betaprime(8, dimension / 2).cdf).pvalue > 0.01
    assert eps.square().mean().item() == pytest.approx(dimension / (dimension - 2), rel=0.03)


def test_student_noise_tends_to_the_gaussian_one():
    normal = Draws(5).normal((500, 1, 4, 4))
    torch.testing.assert_close(StudentT(dimension=1e6)(Draws(5), (500, 1, 4, 4)), normal, rtol=5e-3, atol=0)
    parts = [StudentT()(Draws(5, rows=rows, total=9), (3, 2, 1, 1)) for rows in (slice(0, 3), slice(3, 6), slice(6, 9))]
    assert torch.equal(torch.cat(parts), StudentT()(Draws(5), (9, 2, 1, 1)))


def test_the_best_denoiser_of_two_points_under_student_noise_is_that_of_pfgmpp():
    """Weights (|x - y|^2 + sigma^2 D)^(-(N + D) / 2): the frequencies with which noise leads to a place."""
    dimension, sigma, n = 4, 0.7, 400000
    kernel = StudentT(dimension=dimension)
    where = torch.tensor([-0.5, 0.3])
    left = torch.tensor([-1.0, 0.0]) + sigma * kernel(Draws(1), (n, 2))
    right = torch.tensor([1.0, 0.0]) + sigma * kernel(Draws(2), (n, 2))
    counts = [((x - where).abs() < 0.1).all(1).sum().item() for x in (left, right)]
    densities = [
        ((where - y).square().sum() + sigma**2 * dimension) ** (-(2 + dimension) / 2)
        for y in (torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]))
    ]
    share = (densities[0] / sum(densities)).item()
    assert counts[0] / sum(counts) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / sum(counts)) + 2e-3)


def test_what_needs_gaussian_noise_is_refused_with_another():
    with pytest.raises(ValueError, match="`kernel=StudentT`: steps between levels need Gaussian noise"):
        VP(kernel=StudentT()).posterior(X, X, torch.full((96,), 0.2), torch.full((96,), 0.5))
    with pytest.raises(ValueError, match="`dimension=inf`"):
        StudentT(dimension=math.inf)
