"""Penalties against gradients derived by hand."""

import pytest
import torch

from sparring.data import Draws
from sparring.objectives import R1, R2, GradientPenalty, Scores, penalties_of, r1_penalty


class Linear:
    """D(x) = <w, x>: its gradient is w everywhere."""

    def __init__(self, w):
        self.w = w

    def logits(self, features, given):
        return features[0].flatten(1) @ self.w


class Quadratic:
    """D(x) = x^T A x: its gradient is (A + A^T) x."""

    def __init__(self, a):
        self.a = a

    def logits(self, features, given):
        return torch.einsum("bi,ij,bj->b", features[0], self.a, features[0])


def scores(discriminator, x):
    x = x.detach().requires_grad_()
    return Scores(discriminator.logits([x], None), [x])


def points(seed, n=7, d=4):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(*shape):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


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


def test_r1_and_r2_are_half_the_squared_gradient_at_reals_and_at_fakes():
    a = weights(4, 4)
    real, fake = scores(Quadratic(a), points(0)), scores(Quadratic(a), points(1))
    for penalty, x in ((R1(weight=3.0), points(0)), (R2(weight=3.0), points(1))):
        g = x @ (a + a.T)
        torch.testing.assert_close(penalty(Quadratic(a), real, fake, None, Draws(0)), g.square().sum(1).mean() / 2)


def test_the_gradient_penalty_of_a_linear_discriminator():
    """(|w| - 1)^2 wherever the points lie, by default times 10; 0 for a unit vector."""
    w = weights(4)
    real, fake = scores(Linear(w), points(0)), scores(Linear(w), points(1))
    penalty = GradientPenalty()
    torch.testing.assert_close(penalty(Linear(w), real, fake, None, Draws(0)), (w.norm() - 1) ** 2)
    assert penalty.weight == 10
    unit = Linear(w / w.norm())
    assert penalty(unit, scores(unit, points(0)), scores(unit, points(1)), None, Draws(0)).item() < 1e-20


def test_the_gradient_penalty_is_taken_between_the_reals_and_the_fakes():
    """Of D(x) = x^T x / 2 the gradient is x itself, at u real + (1 - u) fake with one u per row from the draws."""
    half = Quadratic(torch.eye(4, dtype=torch.float64) / 2)
    real, fake = points(0), points(1)
    u = Draws(3).uniform((7,)).double()[:, None]
    expected = ((u * real + (1 - u) * fake).norm(dim=1) - 1).square().mean()
    found = GradientPenalty()(half, scores(half, real), scores(half, fake), None, Draws(3))
    torch.testing.assert_close(found, expected)


def test_the_gradient_penalty_takes_all_features_of_a_row_together():
    """D = <w, x> + <w, y>: the norm of the whole gradient is sqrt(2) |w|; images and points alike."""

    class Two:
        def logits(self, features, given):
            return sum(x.flatten(1) @ w for x in features)

    w = weights(4).detach()
    x, y = points(0).view(7, 1, 2, 2), points(1)
    side = Scores(torch.zeros(7), [x, y])
    found = GradientPenalty()(Two(), side, side, None, Draws(0))
    torch.testing.assert_close(found, (2**0.5 * w.norm() - 1) ** 2)


def test_a_flat_discriminator_has_a_finite_penalty():
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = GradientPenalty()(Linear(w), scores(Linear(w), points(0)), scores(Linear(w), points(1)), None, Draws(0))
    assert loss.item() == pytest.approx(1, abs=1e-5)
    loss.backward()
    assert w.grad.isfinite().all()


def test_settings_and_lists_of_penalties():
    one, two = R1(weight=1.0), R2(weight=2.0)
    assert penalties_of(None) == []
    assert penalties_of(one) == [one]
    assert penalties_of([one, two]) == [one, two]
    with pytest.raises(ValueError, match="r1, r1.*once"):
        penalties_of([one, R1(weight=3.0)])
    for settings in ({"weight": -1.0}, {"weight": 1.0, "every": 0}):
        with pytest.raises(ValueError, match="weight is 0 or more, every at least 1"):
            R1(**settings)
    assert not R1(weight=0.0).is_due(0)
