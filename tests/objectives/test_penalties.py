"""Penalties against gradients derived by hand."""

import pytest
import torch

from sparring.data import Draws
from sparring.objectives import (
    R1,
    R2,
    ApproximateR1,
    ApproximateR2,
    Centring,
    Directional,
    Drift,
    GradientPenalty,
    Scores,
    penalties_of,
    r1_penalty,
)


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


def test_the_directional_penalty_of_a_linear_discriminator():
    """<w, x - G>^2 wherever it is taken; of D = x^T x / 2 the slope lies at u x + (1 - u) G."""
    w, real, fake = weights(4), points(0), points(1)
    found = Directional(weight=1.0)(Linear(w), scores(Linear(w), real), scores(Linear(w), fake), None, Draws(3))
    expected = ((real - fake) @ w).square().mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, w)[0] for loss in (found, expected)))
    half = Quadratic(torch.eye(4, dtype=torch.float64) / 2)
    u = Draws(3).uniform((7,)).double()[:, None]
    expected = ((u * real + (1 - u) * fake) * (real - fake)).sum(1).square().mean()
    found = Directional(weight=1.0)(half, scores(half, real), scores(half, fake), None, Draws(3))
    torch.testing.assert_close(found, expected)


def many(n=200_000, d=4):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("kind", "std"), [(ApproximateR1, 0.1), (ApproximateR1, 2.0), (ApproximateR2, 0.1)])
def test_the_approximate_penalty_of_a_linear_discriminator(kind, std):
    """|a|^2 / 2 in expectation whatever s is, and its derivative by a is a, within 2 % (a standard error is 0.3 %)."""
    a = weights(4)
    right, wrong = scores(Linear(a), many()), scores(Linear(a), torch.full((1, 4), 1e6, dtype=torch.float64))
    real, fake = (right, wrong) if kind is ApproximateR1 else (wrong, right)
    found = kind(weight=1.0, std=std)(Linear(a), real, fake, None, Draws(0))
    assert found.item() == pytest.approx(a.square().sum().item() / 2, rel=0.02)
    (slope,) = torch.autograd.grad(found, a)
    torch.testing.assert_close(slope, a.detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_approximate_penalty_of_a_quadratic(antithetic):
    """D = x'Qx / 2 + a.x at N(0, 1): E|Qx + a|^2 = |Q|^2 + |a|^2; one-sided s^2 ((tr Q)^2 + 2 tr Q^2) / 4 more."""
    q = weights(4, 4).detach()
    q, a, s = (q + q.T) / 2, weights(4).detach(), 1.0

    class Mixed:
        def logits(self, features, given):
            return Quadratic(q / 2).logits(features, given) + Linear(a).logits(features, given)

    exact = q.square().sum() + a.square().sum()
    excess = 0 if antithetic else s**2 / 4 * (q.trace() ** 2 + 2 * q.square().sum())
    penalty = ApproximateR1(weight=1.0, std=s, antithetic=antithetic)
    found = 2 * penalty(Mixed(), scores(Mixed(), many()), None, None, Draws(0))
    assert antithetic or excess > 0.1 * exact
    assert found.item() == pytest.approx((exact + excess).item(), rel=0.02)


@pytest.mark.parametrize("discriminator", ["linear", "quadratic"])
def test_comparing_a_noised_with_an_un_noised_input_measures_the_noise(discriminator):
    """The doubtful form `(D(x_t) - D(x + s n))^2 / s^2`, x_t = (1 - t) x + t e, is no R1: it grows as 1 / s^2.

    For D = a.x it is |a|^2 (1 + t^2 / s^2) + t^2 E(a.x)^2 / s^2. The form with both inputs un-noised is right.
    """
    a, t = weights(4).detach(), 0.5
    known = Linear(a) if discriminator == "linear" else Quadratic(torch.eye(4, dtype=torch.float64) / 2)
    x = many()
    exact = a.square().sum().item() if discriminator == "linear" else 4.0  # E |x|^2
    noise, n = Draws(1).normal(x.shape).double(), Draws(2).normal(x.shape).double()
    doubtful = {}
    for s in (0.1, 0.01):
        gap = known.logits([(1 - t) * x + t * noise], None) - known.logits([x + s * n], None)
        doubtful[s] = (gap.square().mean() / s**2).item()
        right = 2 * ApproximateR1(weight=1.0, std=s)(known, scores(known, x), None, None, Draws(2))
        assert right.item() == pytest.approx(exact, rel=0.03)
    assert doubtful[0.1] > 25 * exact
    assert doubtful[0.01] == pytest.approx(100 * doubtful[0.1], rel=0.05)
    if discriminator == "linear":
        assert doubtful[0.1] == pytest.approx(exact * (1 + 2 * t**2 / 0.1**2), rel=0.02)


def test_a_constant_discriminator_has_no_approximate_penalty_and_heads_are_summed():
    flat = Linear(torch.zeros(4, dtype=torch.float64))
    side = scores(Linear(weights(4)), points(0))
    assert ApproximateR1(weight=1.0)(flat, side, side, None, Draws(0)) == 0

    class Heads:
        def logits(self, features, given):
            return torch.stack([features[0] @ w for w in (one, two)], dim=1)

    one, two = weights(4).detach(), points(3)[0]
    found = ApproximateR1(weight=1.0)(Heads(), side, side, None, Draws(0))
    together = ApproximateR1(weight=1.0)(Linear(one + two), side, side, None, Draws(0))
    torch.testing.assert_close(found, together)


def test_the_approximate_penalty_leaves_autocast():
    """Differences of steps of 0.01 would drown in bfloat16."""
    layer = torch.nn.Linear(4, 1)

    class Net:
        def logits(self, features, given):
            return layer(features[0])

    x = many(20_000).float()
    with torch.autocast("cpu", torch.bfloat16):
        side = Scores(layer(x), [x])
        found = ApproximateR1(weight=1.0, std=0.01)(Net(), side, side, None, Draws(0))
    assert found.item() == pytest.approx(layer.weight.square().sum().item() / 2, rel=0.05)
    with pytest.raises(ValueError, match="`std=0.0`"):
        ApproximateR1(weight=1.0, std=0.0)


@pytest.mark.parametrize("antithetic", [False, True])
def test_both_passes_of_the_approximate_penalty_have_the_same_dropout(antithetic):
    """Else the difference of the masks is divided by the small step."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1)).double()

    class Net:
        def logits(self, features, given):
            return net(features[0])

    side = Scores(torch.zeros(2000, 1), [many(2000)])
    found = ApproximateR1(weight=1.0, std=1e-3, antithetic=antithetic)(Net(), side, side, None, Draws(0)).item()
    (first, _, last), masks = net, (torch.rand(2000, 32, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    slopes = (2 * masks * last.weight) @ first.weight
    assert found == pytest.approx(slopes.square().sum(1).mean().item() / 2, rel=0.2)


def test_drift_and_centring():
    real, fake = Scores(torch.tensor([2.0, -1.0])), Scores(torch.tensor([-3.0, 1.0]))
    assert Drift()(None, real, fake, None, Draws(0)) == 2.5
    assert Drift(fakes=True)(None, real, fake, None, Draws(0)) == 7.5
    assert Centring()(None, real, fake, None, Draws(0)) == 0.5
    assert (Drift().weight, Centring().weight) == (0.001, 0.01)


def test_centring_fixes_the_level_of_a_relativistic_discriminator():
    """A common shift b changes no pairing loss; the best one under centring is -mean(r + f) / 2."""
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    r, f = points(0)[:, 0], points(1)[:, 0]
    Centring()(None, Scores(r + b), Scores(f + b), None, Draws(0)).backward()
    torch.testing.assert_close(-b.grad / 8, -(r + f).mean() / 2)  # one Newton step: the curvature is 8


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
