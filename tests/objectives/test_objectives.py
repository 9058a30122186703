"""Adversarial objectives and R1 against closed forms."""

import math

import pytest
import torch

from sparring.objectives import Hinge, NonSaturating, Relativistic, discriminator_statistics, r1_penalty

R, F = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, -3.0, 1.0])


def sp(u):
    return math.log(1 + math.exp(u))


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("objective", "discriminator", "generator"),
    [
        (NonSaturating(), mean([sp(-2), sp(1), sp(-0.5)]) + mean([sp(0), sp(-3), sp(1)]), mean([sp(0), sp(3), sp(-1)])),
        (Hinge(), mean([0, 2, 0.5]) + mean([1, 0, 2]), -mean([0, -3, 1])),
        (Relativistic(), mean([sp(-2), sp(-2), sp(0.5)]), mean([sp(2), sp(2), sp(-0.5)])),
    ],
)
def test_closed_forms(objective, discriminator, generator):
    assert float(objective.discriminator(R, F)) == pytest.approx(discriminator)
    assert float(objective.generator(F, R)) == pytest.approx(generator)
    per_head = [x[:, None].expand(3, 5) for x in (R, F)]  # the mean runs over heads too
    assert float(objective.discriminator(*per_head)) == pytest.approx(discriminator)
    assert float(objective.generator(per_head[1], per_head[0])) == pytest.approx(generator)


@pytest.mark.parametrize("objective", [NonSaturating(), Hinge(), Relativistic()])
def test_descending_moves_both_players_the_right_way(objective):
    real, fake = R.clone().requires_grad_(), F.clone().requires_grad_()
    objective.discriminator(real, fake).backward()
    assert (real.grad <= 0).all()  # raise the logits of reals
    assert (fake.grad >= 0).all()
    fake.grad = None
    objective.generator(fake, real.detach()).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("objective", [NonSaturating(), Hinge(), Relativistic()])
def test_losses_are_float32_or_better(objective):
    for dtype, expected in [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2]:
        real, fake = 300 * R.to(dtype), 300 * F.to(dtype)
        for loss in (objective.discriminator(real, fake), objective.generator(fake, real)):
            assert loss.dtype == expected
            assert loss.isfinite()


def test_optimal_logit_of_the_non_saturating_loss_is_the_log_density_ratio():
    """Reals with probability 0.8 and fakes with 0.2 at one point: the best constant logit is log 4."""
    logit = torch.tensor(math.log(4.0), dtype=torch.float64, requires_grad=True)
    loss = 0.8 * NonSaturating().discriminator(logit, torch.tensor(-1e9)) + 0.2 * NonSaturating().discriminator(
        torch.tensor(1e9), logit
    )
    loss.backward()
    assert abs(logit.grad) < 1e-12


def test_relativistic_needs_pairs():
    assert Relativistic.needs_real
    assert not Hinge.needs_real
    with pytest.raises(ValueError, match="logits_real"):
        Relativistic().generator(F)
    with pytest.raises(ValueError, match="equal size"):
        Relativistic().discriminator(R, F[:2])


def test_r1_of_linear_discriminator_is_squared_weight_norm():
    w = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((x * w).sum((1, 2, 3)), x)
    torch.testing.assert_close(penalty, w.square().sum())
    penalty.backward()
    torch.testing.assert_close(w.grad, 2 * w)


def test_r1_of_a_quadratic():
    """D(x) = x^T A x has the gradient (A + A^T) x; the derivative of the penalty by A follows by hand."""
    a = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(torch.einsum("bi,ij,bj->b", x, a, x), x)
    g = x.detach() @ (a + a.T)
    torch.testing.assert_close(penalty, g.square().sum(1).mean())
    penalty.backward()
    outer = torch.einsum("bi,bj->ij", g, x.detach()) * 2 / 7
    torch.testing.assert_close(a.grad, outer + outer.T)


def test_r1_sums_the_heads_and_adds_up_inputs():
    w = torch.randn(4, 3, dtype=torch.float64)
    x, y = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(r1_penalty(x @ w, x), w.sum(1).square().sum())
    torch.testing.assert_close(r1_penalty(x @ w + 2 * y @ w, [x, y]), 5 * w.sum(1).square().sum())


def test_r1_in_low_precision_is_float32():
    x = torch.randn(5, 4, dtype=torch.bfloat16, requires_grad=True)
    assert r1_penalty(x.square().sum(1), x).dtype == torch.float32


def test_statistics():
    statistics = discriminator_statistics(R.requires_grad_(), F.bfloat16())
    assert statistics["logit_real"] == 0.5
    assert float(statistics["logit_fake"]) == pytest.approx(-2 / 3)
    assert float(statistics["accuracy"]) == pytest.approx((2 / 3 + 1 / 3) / 2)  # a fake at 0 counts as wrong
    assert not any(value.requires_grad for value in statistics.values())
