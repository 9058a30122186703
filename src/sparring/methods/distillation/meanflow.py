"""MeanFlow: the mean velocity between two times, for one call or a few (Geng et al., arXiv 2505.13447).

Status: proven on digits from scratch at one and two calls (1.44, 0.87), by its second time; at four UniPC is as good
(docs/results/students.md).

On the straight path x_t = (1 - t) x_0 + t eps, with v = eps - x_0, the network takes two times r <= t and gives the
mean velocity u between them, so that x_r = x_t - (t - r) u. What u is follows from its derivative along the path:

    target = sg[ v - (t - r) du/dt ],        du/dt = d_x u . v + d_t u        (r stays)
    L = |u - target|^2 / sg(|u - target|^2 + c)^p

With r = t it is flow matching. An image is x_1 - u(x_1, 1, 0); with more calls, Euler's steps, each with its end.

There is no teacher, and no discriminator unless one is given (ours, with the weight 0.1): then x_t - t u(x_t, t, 0) is
its fake, a call of its own. Times, c, p and the share of r < t are the paper's for small images, as a public
implementation has them. The network takes t and t - r through a `TimeSlot`, which is ours; stock networks take 1000 t,
whose derivative is noise, and are blind to it (`time_blind`). Guidance inside the target is left out.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import Denoiser
from sparring.methods.method import Losses
from sparring.methods.opposed import Opposed
from sparring.networks.derivatives import jvp
from sparring.networks.modes import same_dropout
from sparring.objectives import Objective, Penalty
from sparring.process import LogitNormal, RectifiedFlow, Times, per_image
from sparring.rollout import noise


@dataclass
class MeanFlowStep:
    """The mean velocity and what it should be, both [B, C, H, W]; and what a discriminator sees, if there is one."""

    velocity: Tensor
    target: Tensor
    views: Views = field(default_factory=Views)


class MeanFlow(Opposed):
    """Learns the mean velocity of a flow between any two times, from scratch.

    Args:
        generator: a denoiser of a rectified flow that predicts the flow, with `second_time`.
        discriminator: tells x_t - t u(x_t, t, 0) from the images; none by default. One that compares gets the image
            itself.
        share: of the rows that have r < t; the others are ordinary flow matching.
        power: p.
        offset: c.
        derivative: how du/dt is computed; "difference" is for networks that cannot be differentiated.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
        times: of the one time; logit-normal (-0.6, 1.6) when None. The later of both is t.
        other_times: of the other; logit-normal (-4, 1.6) when None.
    """

    sample_steps = 1
    trains_lengths = True

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        share: float = 0.75,
        power: float = 0.75,
        offset: float = 1e-3,
        derivative: Literal["forward", "reverse", "difference"] = "forward",
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
        other_times: Times | None = None,
    ):
        process, kind = type(generator.process).__name__, generator.prediction
        if not isinstance(generator.process, RectifiedFlow) or kind != "flow":
            raise ValueError(
                f"`process={process}`, `prediction={kind}`: MeanFlow is a flow: give RectifiedFlow and flow"
            )
        if generator.time_slot is None:
            raise ValueError("MeanFlow needs `denoiser.second_time` true")
        if not 0 <= share <= 1 or power < 0 or offset <= 0:
            raise ValueError(
                f"`share={share}` must lie in [0, 1], `power={power}` be 0 or more, `offset={offset}` above 0"
            )
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, **opponent)  # type: ignore[arg-type]
        self.share, self.power, self.offset, self.derivative = share, power, offset, derivative
        self.times = times or LogitNormal(logit_mean=-0.6, logit_std=1.6)
        self.other_times = other_times or LogitNormal(logit_mean=-4.0, logit_std=1.6)

    def rollout(self, batch: Batch) -> MeanFlowStep:
        denoiser, process = self.generator, self.generator.process
        one, other = (times(process, batch.draws, len(batch)) for times in (self.times, self.other_times))
        t = torch.maximum(one, other)
        r = torch.where(batch.draws.uniform((len(batch),)) < self.share, torch.minimum(one, other), t)
        noised = noise(process, batch, t)
        condition = denoiser.condition_with_dropout(batch)
        v = noised.eps - noised.x_0

        def mean_velocity(x: Tensor, time: Tensor, length: Tensor) -> Tensor:
            with same_dropout(x):  # in every pass
                return denoiser.network(x, time, condition, None, length)

        at = noised.x_t, process.model_time(t), t - r
        along = v, process.rate(process.model_time, t), torch.ones_like(t)
        with same_dropout(v):
            _, slope = jvp(mean_velocity, at, along, mode=self.derivative)
        target = v - per_image(t - r, v) * slope.to(v)
        self.log(slope=slope.square().mean())
        velocity = denoiser(noised.x_t, t, condition, None, t - r).output
        return MeanFlowStep(velocity, target, self.seen_of_jumps(batch, noised))

    def discriminator_loss(self, batch: Batch, rollout: MeanFlowStep) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def generator_loss(self, batch: Batch, rollout: MeanFlowStep) -> Losses:
        square = (rollout.velocity - rollout.target).square().flatten(1).sum(1)
        self.log(square=square.mean())
        weighted = square / (square.detach() + self.offset) ** self.power
        return {"mean_velocity": weighted.mean()} | self.adversarial(rollout.views)
