"""Transport as an objective: a potential in place of a discriminator, and a cost for where a fake comes from."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sparring.networks.precision import at_least_float32
from sparring.objectives.adversarial import Objective, Scores

Conjugate = Literal["linear", "softplus", "kl", "chi_square"]


def linear(u: Tensor) -> Tensor:
    """The conjugate of an exact marginal."""
    return u


def chi_square(u: Tensor) -> Tensor:
    """`y^2 / 4 + y`, y = max(u, -2): the conjugate of `(s - 1)^2` on s >= 0."""
    y = u.clamp_min(-2)
    return y.square() / 4 + y


CONJUGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": linear,
    "softplus": softplus,
    "kl": torch.exp,
    "chi_square": chi_square,
}


class Transport(Objective):
    """Dual of (unbalanced) optimal transport, with a cost c for each fake.

    `mean phi2*(-r) + mean phi1*(f - c)` for the discriminator, which is the potential; `mean (c - f)` for the
    generator, which is the map. Both conjugates linear: balanced transport, as in OTM (Rout et al., arXiv 2110.02999).
    Softplus for both: RDGAN (Dao et al., arXiv 2311.17101). Phi1 linear, phi2 softplus: only reals may stay unmatched.

    Args:
        weight: factor of the cost of the scores (tau); c = weight * cost.
        phi1: conjugate on fakes: `u`, `softplus(u)`, `exp(u)` ("kl") or `chi_square`.
        phi2: conjugate on reals.

    Raises:
        ValueError: a negative weight; a conjugate of another name; in the losses, scores without a cost.
    """

    has_zero = False

    def __init__(self, *, weight: float = 1.0, phi1: Conjugate = "softplus", phi2: Conjugate = "softplus") -> None:
        if weight < 0:
            raise ValueError(f"`weight={weight}` of the transport cost must be 0 or more")
        for name, phi in (("phi1", phi1), ("phi2", phi2)):
            if phi not in CONJUGATES:
                raise ValueError(f"`{name}={phi}`: a conjugate is one of {', '.join(CONJUGATES)}")
        self.weight, self.phi1, self.phi2 = weight, CONJUGATES[phi1], CONJUGATES[phi2]

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return self.phi2(-at_least_float32(real.logits)).mean() + self.phi1(-self._net_cost(fake)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return self._net_cost(fake).mean()

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """`gap` of the mean potentials, and the mean `cost` without its weight. A potential has no zero."""
        found = {"gap": at_least_float32(real.logits.detach()).mean() - at_least_float32(fake.logits.detach()).mean()}
        return found if fake.cost is None else found | {"cost": at_least_float32(fake.cost.detach()).mean()}

    def _net_cost(self, fake: Scores) -> Tensor:
        """c - f, of the shape of the logits."""
        logits = at_least_float32(fake.logits)
        if fake.cost is None:
            raise ValueError(
                "`Transport` needs the cost of each fake: use a method that says where its fakes come from"
            )
        return self.weight * at_least_float32(fake.cost).view(-1, *[1] * (logits.ndim - 1)) - logits
