"""Adversarial objectives against closed forms."""

import math

import pytest
import torch

from sparring.data import Draws
from sparring.objectives import (
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Saturating,
    Scores,
    Wasserstein,
    discriminator_statistics,
)

R, F = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, -3.0, 1.0])
EVERY = [NonSaturating(), Saturating(), Hinge(), Relativistic(), Wasserstein()]  # monotone; the least squares are not


def sp(u):
    return math.log(1 + math.exp(u))


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("objective", "discriminator", "generator"),
    [
        (NonSaturating(), mean([sp(-2), sp(1), sp(-0.5)]) + mean([sp(0), sp(-3), sp(1)]), mean([sp(0), sp(3), sp(-1)])),
        (Saturating(), mean([sp(-2), sp(1), sp(-0.5)]) + mean([sp(0), sp(-3), sp(1)]), -mean([sp(0), sp(-3), sp(1)])),
        (Hinge(), mean([0, 2, 0.5]) + mean([1, 0, 2]), -mean([0, -3, 1])),
        (LeastSquares(), mean([1, 4, 0.25]) / 2 + mean([0, 9, 1]) / 2, mean([1, 16, 0]) / 2),
        (Relativistic(), mean([sp(-2), sp(-2), sp(0.5)]), mean([sp(2), sp(2), sp(-0.5)])),
        (Wasserstein(), mean([0, -3, 1]) - mean([2, -1, 0.5]), -mean([0, -3, 1])),
        (Wasserstein(ceiling=5), mean([0, -3, 1]) - mean([2, -1, 0.5]), -mean([0, -3, 1])),
        (Wasserstein(ceiling=0.7), -0.7, -mean([0, -3, 1])),
    ],
)
def test_closed_forms(objective, discriminator, generator):
    """For one logit per image, and for the same logit of five heads: the mean runs over heads too."""
    for real, fake in ((R, F), (R[:, None].expand(3, 5), F[:, None].expand(3, 5))):
        assert float(objective.discriminator(Scores(real), Scores(fake))) == pytest.approx(discriminator)
        assert float(objective.generator(Scores(fake), Scores(real))) == pytest.approx(generator)


@pytest.mark.parametrize("objective", EVERY)
def test_descending_moves_both_players_the_right_way(objective):
    real, fake = R.clone().requires_grad_(), F.clone().requires_grad_()
    objective.discriminator(Scores(real), Scores(fake)).backward()
    assert (real.grad <= 0).all()  # raise the logits of reals
    assert (fake.grad >= 0).all()
    fake.grad = None
    objective.generator(Scores(fake), Scores(real.detach())).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("objective", EVERY)
def test_losses_are_float32_or_better(objective):
    for dtype, expected in [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2]:
        real, fake = 300 * R.to(dtype), 300 * F.to(dtype)
        for loss in (
            objective.discriminator(Scores(real), Scores(fake)),
            objective.generator(Scores(fake), Scores(real)),
        ):
            assert loss.dtype == expected
            assert loss.isfinite()


def test_optimal_logit_of_the_non_saturating_loss_is_the_log_density_ratio():
    """Reals with probability 0.8 and fakes with 0.2 at one point: the best constant logit is log 4."""
    logit = torch.tensor(math.log(4.0), dtype=torch.float64, requires_grad=True)
    loss = 0.8 * NonSaturating().discriminator(Scores(logit), Scores(torch.tensor(-1e9)))
    loss += 0.2 * NonSaturating().discriminator(Scores(torch.tensor(1e9)), Scores(logit))
    loss.backward()
    assert abs(logit.grad) < 1e-12


def test_least_squares_are_undecided_at_one_half():
    """Equal densities: the best logit is 1/2, and accuracy is counted from there."""
    logit = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    LeastSquares().discriminator(Scores(logit), Scores(logit)).backward()
    assert logit.grad == 0
    statistics = LeastSquares().statistics(Scores(R), Scores(torch.tensor([0.4, 0.6, -3.0])))
    assert float(statistics["accuracy"]) == pytest.approx((1 / 3 + 2 / 3) / 2)  # 0.5 counts as wrong
    assert float(statistics["logit_real"]) == 0.5


def test_one_sided_smoothing_bounds_the_optimum():
    """Densities p and q of reals and fakes: the best logit is log(.9 p / (.1 p + q)), 0.8473 at .7 and .2."""
    p, q = 0.7, 0.2
    logit = torch.tensor(math.log(0.9 * p / (0.1 * p + q)), dtype=torch.float64, requires_grad=True)
    assert logit.item() == pytest.approx(0.8473, abs=1e-4)
    objective, far = NonSaturating(smoothing=0.1), torch.tensor(-50.0, dtype=torch.float64)
    at_reals, at_fakes = (Scores(logit), Scores(far)), (Scores(-far), Scores(logit))
    loss = p * objective.discriminator(*at_reals) + q * NonSaturating().discriminator(*at_fakes)
    (slope,) = torch.autograd.grad(loss, logit)
    assert abs(slope) < 1e-12
    by_hand = mean([0.9 * sp(-r) + 0.1 * sp(r) for r in (2, -1, 0.5)]) + mean([sp(0), sp(-3), sp(1)])
    assert float(objective.discriminator(Scores(R), Scores(F))) == pytest.approx(by_hand)
    assert objective.generator(Scores(F)) == NonSaturating().generator(Scores(F))
    with pytest.raises(ValueError, match="`smoothing=0.5`"):
        NonSaturating(smoothing=0.5)


def test_random_margins_of_the_hinge():
    """Margins in (0.8, 1], one per logit, from the draws: 1.8 in the mean if all logits are 0."""
    objective, zero = Hinge(spread=0.2), torch.zeros(4000, 5)
    loss = objective.discriminator(Scores(zero, draws=Draws(0)), Scores(zero, draws=Draws(0)))
    assert float(loss) == pytest.approx(1.8, abs=3e-3)  # a standard error is 6e-4
    draws = Draws(0)
    real, fake = (1 - 0.2 * u for u in (draws.uniform((3,)), draws.uniform((3,))))
    draws = Draws(0)
    found = objective.discriminator(Scores(R, draws=draws), Scores(F, draws=draws))
    torch.testing.assert_close(found, (real - R).relu().mean() + (fake + F).relu().mean())
    assert objective.generator(Scores(F)) == Hinge().generator(Scores(F))
    with pytest.raises(ValueError, match="`spread=0.2`: random margins need the `draws`"):
        objective.discriminator(Scores(R), Scores(F))
    with pytest.raises(ValueError, match="`spread=1.5`"):
        Hinge(spread=1.5)


def test_relativistic_needs_pairs():
    assert Relativistic.needs_real
    assert not Hinge.needs_real
    with pytest.raises(ValueError, match="scores of `real`"):
        Relativistic().generator(Scores(F))
    with pytest.raises(ValueError, match="equal size"):
        Relativistic().discriminator(Scores(R), Scores(F[:2]))


def test_a_ceiling_of_zero_would_teach_nothing():
    with pytest.raises(ValueError, match="`ceiling=0`"):
        Wasserstein(ceiling=0)


def test_statistics():
    statistics = discriminator_statistics(Scores(R.clone().requires_grad_()), Scores(F.bfloat16()))
    assert statistics["logit_real"] == 0.5
    assert float(statistics["logit_fake"]) == pytest.approx(-2 / 3)
    assert float(statistics["accuracy"]) == pytest.approx((2 / 3 + 1 / 3) / 2)  # a fake at 0 counts as wrong
    assert not any(value.requires_grad for value in statistics.values())


def test_pairs_are_told_apart_by_their_difference():
    """The relativistic losses are the same for shifted logits, and so is the accuracy: two of three pairs are right."""
    for shift in (0.0, 7.0):
        found = Relativistic().statistics(Scores((R + shift).requires_grad_()), Scores(F + shift))
        assert float(found["accuracy"]) == pytest.approx(2 / 3)
        assert float(found["logit_real"]) == pytest.approx(0.5 + shift)
        assert not any(value.requires_grad for value in found.values())
