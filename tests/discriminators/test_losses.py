"""Views, and what the two players minimise: penalties in time, graphs where they belong."""

import pytest
import torch

from sparring.data import Draws
from sparring.discriminators import Discriminator, Given, Views, discriminator_losses, generator_loss
from sparring.objectives import R1, R2, GradientPenalty, Hinge, Relativistic, Wasserstein


class Linear(Discriminator):
    """D(x) = <w, x>: its gradient is w everywhere."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))

    def features(self, x, given, draws):
        return [x]

    def logits(self, features, given):
        return features[0].flatten(1) @ self.w


class Quadratic(Linear):
    """D(x) = x^T A x with A = w w^T + w: its gradient is (A + A^T) x."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.outer(self.w, self.w).detach() + self.w.detach())

    def logits(self, features, given):
        return torch.einsum("bi,ij,bj->b", features[0], self.a, features[0])


class Comparing(Linear):
    needs_reference = "any"


def points(seed, n=7):
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen(real, fake):
    return Views([points(real)], [points(fake)], Given())


def losses_of(discriminator, views, penalties, step=0, objective=None):
    settings = {"step": step, "draws": Draws(0)}
    return discriminator_losses(discriminator, views, objective or Wasserstein(), penalties, **settings)[0]


def test_r1_and_r2_of_a_quadratic_with_their_weight():
    """gamma/2 mean |(A + A^T) x|^2 at reals or fakes; its derivative by A is gamma mean (g x^T + x g^T)."""
    discriminator = Quadratic()
    a = discriminator.a.detach()
    for penalty, x in ((R1(weight=0.6), points(0)), (R2(weight=0.6), points(1))):
        losses = losses_of(discriminator, seen(0, 1), [penalty])
        g = x @ (a + a.T)
        assert list(losses) == ["adversarial", penalty.name]
        torch.testing.assert_close(losses[penalty.name], 0.3 * g.square().sum(1).mean())
        (gradient,) = torch.autograd.grad(losses[penalty.name], discriminator.a)
        torch.testing.assert_close(gradient, 0.6 * (g.T @ x + x.T @ g) / len(x))


@pytest.mark.parametrize("kind", [Linear, Quadratic])
@pytest.mark.parametrize("penalty", [R1, R2, GradientPenalty])
def test_a_lazy_penalty_comes_every_so_many_steps_and_counts_as_often(penalty, kind):
    """Its gradient over a period of steps on the same images is that of the penalty in every step."""
    discriminator = kind()

    def gradient(every):
        total = torch.zeros(())
        for step in range(8):
            losses = losses_of(discriminator, seen(0, 1), [penalty(weight=0.5, every=every)], step)
            assert (penalty.name in losses) == (step % every == 0)
            if penalty.name in losses:
                parameter = discriminator.w if kind is Linear else discriminator.a
                total = total + torch.autograd.grad(losses[penalty.name], parameter)[0]
        return total

    if kind is Linear:  # by hand: gamma w, and of (|w| - 1)^2
        w, length = discriminator.w.detach(), discriminator.w.detach().norm()
        by_hand = 0.5 * w if penalty is not GradientPenalty else 0.5 * 2 * (length - 1) * w / length
        torch.testing.assert_close(gradient(1), 8 * by_hand)
    torch.testing.assert_close(gradient(4), gradient(1))
    torch.testing.assert_close(gradient(8), gradient(1))


def test_the_discriminators_loss_leaves_the_graph_of_the_fake_alone():
    """Whether a penalty is due or not; the generator's loss follows it."""
    for penalties in ([], [R1(weight=1.0), R2(weight=1.0), GradientPenalty()]):
        discriminator, fake = Linear(), points(1).requires_grad_()
        views = Views([points(0)], [fake * 1.0], Given())
        sum(losses_of(discriminator, views, penalties).values()).backward()
        assert fake.grad is None
        assert discriminator.w.grad.abs().min() > 0
        generator_loss(discriminator, views, Wasserstein()).backward()
        torch.testing.assert_close(fake.grad, -discriminator.w.detach().expand(7, 4) / 7)


def test_an_objective_of_pairs_gets_the_reals_for_both_players():
    discriminator, views = Linear(), seen(0, 1)
    r, f = points(0) @ discriminator.w, points(1) @ discriminator.w
    losses = losses_of(discriminator, views, [], objective=Relativistic())
    torch.testing.assert_close(losses["adversarial"], torch.nn.functional.softplus(f - r).mean())
    loss = generator_loss(discriminator, views, Relativistic())
    torch.testing.assert_close(loss, torch.nn.functional.softplus(r - f).mean())


def test_statistics_are_those_of_the_objective():
    for objective, names in ((Hinge(), {"logit_real", "logit_fake", "accuracy"}), (Wasserstein(), {"gap"})):
        _, statistics = discriminator_losses(Linear(), seen(0, 1), objective, [], step=0, draws=Draws(0))
        assert set(statistics) == names
    w = Linear().w.detach()
    torch.testing.assert_close(statistics["gap"].double(), ((points(0) - points(1)) @ w).mean(), rtol=1e-5, atol=0)


def test_views_have_a_graph_for_the_fakes_only():
    fake = points(1).requires_grad_()
    views = Linear().views(points(0).requires_grad_(), fake, Given(), Draws(0))
    assert views.fake[0].requires_grad
    assert views.given.reference is None
    views = Comparing().views(points(0), fake, Given(), Draws(0), points(2))
    assert torch.equal(views.given.reference[0], points(2))
    with pytest.raises(ValueError, match="Comparing compares fakes with real images"):
        Comparing().views(points(0), fake, Given(), Draws(0))
