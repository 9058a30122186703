"""Transport: its conjugates, its losses by hand, and what they become in special cases."""

import math

import pytest
import torch

from sparring.objectives import NonSaturating, Scores, Transport, Wasserstein
from sparring.objectives.transport import CONJUGATES

R, F, C = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, -3.0, 1.0]), torch.tensor([4.0, 0.0, 2.0])


@pytest.mark.parametrize("name", CONJUGATES)
def test_conjugates_are_suprema(name):
    """phi*(u) = sup_s (u s - phi(s)) over s >= 0, up to a constant; of softplus s lies in [0, 1]."""
    s = torch.linspace(1e-6, 1, 100_001, dtype=torch.float64) * (1 if name == "softplus" else 20)
    entropy = {
        "linear": torch.where((s - 1).abs() < 1e-4, 0.0, math.inf),
        "softplus": s * s.log() + torch.special.xlogy(1 - s, 1 - s),
        "kl": s * s.log() - s,
        "chi_square": (s - 1).square(),
    }[name]
    for u in (-3.0, -1.0, 0.0, 0.7, 2.0):
        found = CONJUGATES[name](torch.tensor(u, dtype=torch.float64)).item()
        assert found == pytest.approx((u * s - entropy).max().item(), abs=1e-3)


def test_losses_by_hand():
    """With weight 0.5: c = (2, 0, 1); softplus on fakes, chi-square on reals; two heads weigh as one."""
    objective = Transport(weight=0.5, phi1="softplus", phi2="chi_square")

    def sp(u):
        return math.log1p(math.exp(u))

    for real, fake in ((R, F), (R[:, None].expand(3, 2), F[:, None].expand(3, 2))):
        loss = objective.discriminator(Scores(real), Scores(fake, cost=C))
        on_reals = [-1.0, 0.25 + 1, 0.0625 - 0.5]  # of u = -2, 1, -0.5
        assert float(loss) == pytest.approx(sum(on_reals) / 3 + (sp(-2) + sp(-3) + sp(0)) / 3)
        assert float(objective.generator(Scores(fake, cost=C))) == pytest.approx((2 + 3 + 0) / 3)
    statistics = objective.statistics(Scores(R), Scores(F, cost=C))
    assert {k: float(v) for k, v in statistics.items()} == pytest.approx({"gap": 0.5 + 2 / 3, "cost": 2})


def test_without_a_cost_it_is_a_known_objective():
    real, fake = Scores(R), Scores(F, cost=C)
    balanced, soft = Transport(weight=0, phi1="linear", phi2="linear"), Transport(weight=0)
    torch.testing.assert_close(balanced.discriminator(real, fake), Wasserstein().discriminator(real, fake))
    torch.testing.assert_close(balanced.generator(fake), Wasserstein().generator(fake))
    torch.testing.assert_close(soft.discriminator(real, fake), NonSaturating().discriminator(real, fake))


def test_the_generator_feels_the_cost_and_the_potential_only_its_rows():
    cost, logits = C.clone().requires_grad_(), F.clone().requires_grad_()
    Transport(weight=0.1).generator(Scores(logits, cost=cost)).backward()
    torch.testing.assert_close(cost.grad, torch.full((3,), 0.1 / 3))
    torch.testing.assert_close(logits.grad, torch.full((3,), -1 / 3))


def test_what_is_refused():
    with pytest.raises(ValueError, match="needs the cost of each fake"):
        Transport().generator(Scores(F))
    with pytest.raises(ValueError, match="`phi2=tv`: a conjugate is one of linear, softplus, kl, chi_square"):
        Transport(phi2="tv")
    with pytest.raises(ValueError, match="`weight=-1`"):
        Transport(weight=-1)
