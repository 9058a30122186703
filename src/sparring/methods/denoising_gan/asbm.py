"""ASBM: adversarial Schroedinger bridge matching (Gushchin et al., NeurIPS 2024, arXiv 2405.14449).

Status: proven on points: its rounds halve the mean squared way of the sources, and the images are as good
(docs/results/gans.md).

Translation between two domains without pairs, by discrete iterative Markovian fitting. Given pairs of ends (x_0, x_1),
a Brownian bridge of variance eps is laid between them, and its steps are learned as those of a DDGAN:

    x_t ~ N((1-t) x_0 + t x_1, eps t (1-t)),        x_s ~ N((1-s/t) x_0 + (s/t) x_t, eps s (t-s)/t),        t = n/N
    xhat = G(x_t, t, z),        x_s' from the same law with xhat in the place of x_0,        losses as in DDGAN

Then new pairs: one end real, the other drawn from it by the average of the model of the other direction. Repeated, the
pairs become those of the Schroedinger bridge, in which the images move little.

Fake: a step x_s' from a real or drawn pair. Discriminators: one for each direction, given x_t and t. Both
directions learn in every step, from the averages of the last round (the paper alternates them). The first round has
random pairs (the paper: minibatch optimal transport).
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views, generator_loss
from sparring.generators import Bridge, Generator
from sparring.methods.method import Losses, Method, held_out, moving_copy
from sparring.metrics.toys import sliced_wasserstein
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.process.bridge import bridge, bridge_posterior


@dataclass
class BridgeStep:
    """The pairs (x_0, x_1) of one direction, and a step x_t -> x_s between them, real and as the model draws it."""

    x_0: Tensor
    x_1: Tensor
    x_t: Tensor
    x_s_real: Tensor
    x_s_fake: Tensor
    views: Views


class ASBM(Method):
    """A bridge between two domains, trained with that of the other direction.

    Args:
        generator: from sources to images.
        discriminator: of a step: one that is given t and x_t; the other direction has a copy.
        round_steps: steps between two renewals of the pairs.
        decay: of the averages that draw the pairs; 0: the models themselves draw them.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminators.
    """

    generator: Bridge
    discriminator: Any  # a ModuleList of two
    averages: Any  # ModuleLists of two moving copies
    drawn_by: Any
    sampler = "bridge"

    def __init__(
        self,
        generator: Bridge,
        discriminator: Discriminator,
        *,
        round_steps: int = 500,
        decay: float = 0.99,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if round_steps < 1:
            raise ValueError(f"`round_steps={round_steps}` must be at least 1")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay={decay}` must lie in [0, 1)")
        super().__init__(generator, nn.ModuleList([discriminator, deepcopy(discriminator)]))
        self.reverse = deepcopy(generator)
        self.averages, self.drawn_by = (nn.ModuleList(map(moving_copy, self.others)) for _ in range(2))
        self.sample_steps = generator.num_steps
        self.round_steps, self.decay = round_steps, decay
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    @property
    def others(self) -> list[Bridge]:
        """The model of the other direction, for each direction."""
        return [self.reverse, self.generator]

    def parts(self) -> list[nn.Module]:
        return [self.reverse]

    def rollout(self, batch: Batch) -> list[BridgeStep]:
        """A step of each direction: to the images, and to the sources."""
        assert batch.source is not None
        ends = [(batch.images, batch.source), (batch.source, batch.images)]
        return [self.bridge_step(batch, number, *pair) for number, pair in enumerate(ends)]

    def bridge_step(self, batch: Batch, number: int, x_0: Tensor, x_1: Tensor) -> BridgeStep:
        """A step of the direction of that number, which ends at the real x_0; x_1 is drawn from it after round 0."""
        model = (self.generator, self.reverse)[number]
        if self.step >= self.round_steps:
            with torch.no_grad():
                other = self.drawn_by[number].module
                x_1 = other.walk(x_0, batch.draws.normal((len(batch), other.noise_dim)).to(x_0))
        n = batch.draws.integers(model.num_steps, (len(batch),)).to(x_0)
        s, t = n / model.num_steps, (n + 1) / model.num_steps
        shape = tuple(x_0.shape)
        x_t = bridge(x_0, x_1, t, batch.draws.normal(shape).to(x_0), model.variance)
        mean, std = bridge_posterior(x_0, x_t, s, t, model.variance)
        x_s_real = mean + std * batch.draws.normal(shape).to(x_0)
        mean, std = bridge_posterior(model(x_t, t, model.z(batch)), x_t, s, t, model.variance)
        x_s_fake = mean + std * batch.draws.normal(shape).to(x_0)
        views = self.discriminator[number].views(x_s_real, x_s_fake, Given(t=t, x_t=x_t), batch.draws)
        return BridgeStep(x_0, x_1, x_t, x_s_real, x_s_fake, views)

    def discriminator_loss(self, batch: Batch, rollout: list[BridgeStep]) -> Losses:
        losses: Losses = {}
        for name, discriminator, step in zip(("", "reverse_"), self.discriminator, rollout, strict=True):
            losses |= self.discriminator_terms(
                discriminator, step.views, self.objective, self.penalties, batch.draws, prefix=name
            )
        return losses

    def generator_loss(self, batch: Batch, rollout: list[BridgeStep]) -> Losses:
        one, other = (
            generator_loss(discriminator, step.views, self.objective)
            for discriminator, step in zip(self.discriminator, rollout, strict=True)
        )
        self.log(cost=(rollout[0].x_0 - rollout[0].x_1).square().flatten(1).sum(1).mean())
        return {"adversarial": one, "reverse_adversarial": other}

    def after_step(self) -> None:
        """Moves the averages; at the end of a round the copies that draw the pairs become these."""
        for average, drawn_by, other in zip(self.averages, self.drawn_by, self.others, strict=True):
            average.follow(other, 1 - self.decay)
            if (self.step + 1) % self.round_steps == 0:
                drawn_by.refreeze(average.module)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`cost`, the mean squared distance (a sum over pixels) of held-out sources and what is made of them.

        And `distance`, the sliced Wasserstein distance of that to held-out images: a network that has learned nothing
        moves hardly anything, so that a low cost says something only where this is low, too.
        """
        assert isinstance(generator, Bridge)
        batch = held_out(data, draws)
        assert batch.source is not None
        made = generator.walk(batch.source, draws.normal((len(batch), generator.noise_dim)))
        cost = (made - batch.source).square().flatten(1).sum(1).mean().item()
        return {"cost": cost, "distance": sliced_wasserstein(made, batch.images)}
