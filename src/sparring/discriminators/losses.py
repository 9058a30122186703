"""What the two players minimise, given what a discriminator sees."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given, Views
from sparring.objectives import Objective, Penalty, Scores

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
    discriminator.check_objective(objective)
    due = [penalty for penalty in penalties if penalty.is_due(step)]
    candidates = [_leaves(features, differentiable=bool(due)) for features in (views.real, views.fake)]
    given = views.given
    if given.cost is not None:
        given = replace(given, cost=given.cost.detach())
    real, fake = scores_of(discriminator, candidates, given, draws)
    losses = {name: objective.discriminator(real, fake), **discriminator.losses()}
    for penalty in due:
        value = penalty(discriminator, real, fake, given, draws)
        losses[penalty.name] = penalty.weight * penalty.every * value
    return losses, objective.statistics(real, fake) | discriminator.statistics(real, fake, given, step)


def generator_loss(discriminator: Discriminator, views: Views, objective: Objective) -> Tensor:
    """The adversarial term of the generator's loss, without its weight."""
    candidates = [views.fake, views.real] if objective.needs_real else [views.fake]
    return objective.generator(*scores_of(discriminator, candidates, views.given))


def scores_of(
    discriminator: Discriminator, candidates: Sequence[Features], given: Given, draws: Draws | None = None
) -> list[Scores]:
    """The scores of each batch of candidates, with what an objective may want to know of the rows."""
    return [
        replace(scores, labels=given.labels, cost=given.cost, draws=draws)
        for scores in discriminator.scores(candidates, given)
    ]


def _leaves(features: Features, *, differentiable: bool) -> Features:
    """The features without their graph, as leaves with gradient if a penalty needs that.

    A tensor without a graph stays the same object: the structure discriminator knows its reference by that.
    """
    return [x.detach().requires_grad_(differentiable) if x.requires_grad or differentiable else x for x in features]
