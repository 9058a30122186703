"""What the two players minimise, given what a discriminator sees."""

from collections.abc import Sequence

from torch import Tensor

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Views
from sparring.objectives import Objective, Penalty

Named = dict[str, Tensor]


def discriminator_losses(
    discriminator: Discriminator,
    views: Views,
    objective: Objective,
    penalties: Sequence[Penalty],
    *,
    step: int,
    draws: Draws,
    name: str = "adversarial",
) -> tuple[Named, Named]:
    """The terms of the discriminator's loss, and what to log of it.

    Args:
        discriminator: the one that is updated.
        views: what it sees; the graph of the fakes is left out.
        objective: adversarial loss.
        penalties: those that are due in this step are added, each times its weight and, if lazy, times `every`.
        step: number of the training step.
        draws: random numbers for the rows.
        name: of the objective's term.
    """
    due = [penalty for penalty in penalties if penalty.is_due(step)]
    candidates = [_leaves(features, differentiable=bool(due)) for features in (views.real, views.fake)]
    real, fake = discriminator.scores(candidates, views.given)
    losses = {name: objective.discriminator(real, fake), **discriminator.losses()}
    for penalty in due:
        value = penalty(discriminator, real, fake, views.given, draws)
        losses[penalty.name] = penalty.weight * penalty.every * value
    return losses, objective.statistics(real, fake) | discriminator.statistics(real, fake, views.given, step)


def generator_loss(discriminator: Discriminator, views: Views, objective: Objective) -> Tensor:
    """The adversarial term of the generator's loss, without its weight."""
    candidates = [views.fake, views.real] if objective.needs_real else [views.fake]
    return objective.generator(*discriminator.scores(candidates, views.given))


def _leaves(features: Features, *, differentiable: bool) -> Features:
    """The features without their graph, as leaves with gradient if a penalty needs that.

    A tensor without a graph stays the same object: the structure discriminator knows its reference by that.
    """
    return [x.detach().requires_grad_(differentiable) if x.requires_grad or differentiable else x for x in features]
