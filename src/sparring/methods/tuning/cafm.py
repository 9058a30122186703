"""CAFM: continuous adversarial flow models (Lin et al., arXiv 2604.11521).

Status: no gain: plain training of equal network calls is far ahead; three seeds (docs/results/limits.md).

A potential D(x, t) learns to rise along the true velocity of the path, and to fall along the model's:

    x_t = alpha x_0 + sigma eps,        v = alpha' x_0 + sigma' eps,        u = alpha' xhat_0 + sigma' epshat
    J(w) = grad_x D . w + d_t D
    L_D = (J(v) - 1)^2 + (J(sg u) + 1)^2 + potential_weight D^2,        L_G = (J(u) - 1)^2 + velocity_weight mean u^2

Fake: the model's velocity at a noised real image; there is no rollout and no teacher, and the result is sampled as
before. Discriminator: the slope of a potential that is conditioned on t. If there is no difference to see, D = 0,
L_D = 2 and L_G = 1. The solution of plain training, u = E[v | x_t], is a fixed point, and so is every velocity with the
same marginals. J is linear in w, so one gradient of D gives both slopes (`directional`); the paper has a vmapped JVP.
Or J is the difference over an `interval`, which needs ordinary passes only (CAMF).

The paper has a flow; the velocity of any Gaussian path is ours. The potential starts as a copy of the model, as in the
paper, with its own read-out (see `DenoiserDiscriminator`) and its normalisation layers as they are.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import DenoiserDiscriminator, Discriminator, Given, check_single
from sparring.generators import Condition, Denoiser
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.networks.derivatives import Tangent, directional
from sparring.networks.modes import same_dropout
from sparring.process import Times
from sparring.rollout import Noised, noise
from sparring.runs.choice import check_choice


@dataclass
class CAFMRollout:
    """Noised images with the true velocity and the model's, [B, C, H, W], and the condition of both networks."""

    noised: Noised
    real: Tensor
    fake: Tensor
    condition: Condition


class CAFM(Method):
    """Tunes a trained denoiser on its velocities.

    Args:
        generator: a trained denoiser.
        discriminator: the potential, conditioned on t; a copy of the generator when None.
        potential_weight: of D^2, which keeps the potential near 0.
        velocity_weight: of the generator's u^2; the paper has 0 in tuning.
        move_time: the slope has its part in t; without, the potential sees less.
        derivative: of the potential: by its "reverse" gradient, or over an "interval".
        interval: length in t of the interval.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Denoiser
    discriminator: Discriminator

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        potential_weight: float = 0.001,
        velocity_weight: float = 0.0,
        move_time: bool = True,
        derivative: Literal["reverse", "interval"] = "reverse",
        interval: float = 0.01,
        times: Times | None = None,
    ):
        check_not_negative(potential_weight=potential_weight, velocity_weight=velocity_weight)
        check_choice("reverse", "interval", derivative=derivative)
        if not 0 < interval < 1:
            raise ValueError(f"`interval={interval}` must lie between 0 and 1")
        discriminator = discriminator or DenoiserDiscriminator(generator)
        check_single(discriminator)
        super().__init__(generator, discriminator)
        self.potential_weight, self.velocity_weight = potential_weight, velocity_weight
        self.move_time, self.derivative, self.interval = move_time, derivative, interval
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> CAFMRollout:
        process = self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        condition = self.generator.condition_with_dropout(batch)
        made, velocity = self.generator(noised.x_t, noised.t, condition), process.velocity
        real = velocity(noised.x_0, noised.eps, noised.t)
        return CAFMRollout(noised, real, velocity(made.x0, made.eps, noised.t), condition)

    def discriminator_loss(self, batch: Batch, rollout: CAFMRollout) -> Losses:
        potential, (real, fake) = self.slopes(batch, rollout, rollout.real, rollout.fake.detach())
        self.log(slope_real=real.mean(), slope_fake=fake.mean(), potential=potential.square().mean())
        return {
            "slopes": ((real - 1).square() + (fake + 1).square()).mean(),
            "potential": self.potential_weight * potential.square().mean(),
        }

    def generator_loss(self, batch: Batch, rollout: CAFMRollout) -> Losses:
        _, (fake,) = self.slopes(batch, rollout, rollout.fake, create_graph=False)
        losses: Losses = {"slope": (fake - 1).square().mean()}
        if self.velocity_weight > 0:
            losses["velocity"] = self.velocity_weight * rollout.fake.square().mean()
        return losses

    def slopes(
        self, batch: Batch, rollout: CAFMRollout, *velocities: Tensor, create_graph: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The potential [B] at the noised images, and its slopes [n, B] along n velocities."""
        noised = rollout.noised

        def potential(x: Tensor, t: Tensor) -> Tensor:
            with same_dropout(x):  # in every pass
                return self.discriminator(x, Given(labels=batch.labels, t=t, condition=rollout.condition), batch.draws)

        along: list[Tangent] = [(w, torch.ones_like(noised.t) if self.move_time else None) for w in velocities]
        return directional(
            potential,
            noised.x_t,
            noised.t,
            along,
            mode=self.derivative,
            step=self.interval if self.derivative == "reverse" else noised.t.clamp(max=self.interval),
            create_graph=create_graph,
        )
