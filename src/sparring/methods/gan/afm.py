"""AFM: adversarial flow models (Lin et al., arXiv 2511.22475).

Status: proven; 25 of 25 modes and 0.91 good points in one call, without its transport 0.14 (docs/results/gans.md).

A GAN whose generator is a map of a flow, from a noise level s to a cleaner one t; in one call, from noise to an image:

    xhat_t = F(x_s, s -> t),        r = D(x_t, t),        f = D(xhat_t, t)
    L_D = sp(-(r - f)) + approximate R1 + approximate R2 + 0.01 (r + f)^2
    L_G = normalised sp(-(f - r)) + transport / (s - t) mean |xhat_t - x_s|^2,        sp(u) = log(1 + e^u)

A GAN accepts any pairing of noise and images. The transport cost makes it unique, so that training is stable without a
teacher. D never sees x_s. The gradient of the adversarial term at the image is divided by the root of the running mean
of its squared norm, so that the weight of the transport means the same all through the run.

Fake: one step of the sampler's grid (`flow_map`). Discriminator: a copy of the network with a read-out, given t. In the
paper x_s and x_t come from different images; here from the same with different noise, which in one call is the
same. The penalties are taken on all rows (a quarter in the paper). The steps are DDIM's on any process of bounded
scale. Rates and sizes are ours; depth, guidance by a classifier and reloading are left out.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import (
    DenoiserDiscriminator,
    Discriminator,
    Given,
    Views,
    check_single,
    check_told,
    generator_loss,
)
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.objectives import ApproximateR1, ApproximateR2, Centring, Objective, Penalty, Relativistic, cosine
from sparring.objectives.penalties import penalties_of
from sparring.rollout import check_begins_in_noise
from sparring.rollout.flow_map import FlowMapStep, flow_map, sampler_levels


@dataclass
class AFMRollout:
    """A step of the map, and what the discriminator sees of it."""

    step: FlowMapStep
    views: Views


class AFM(Method):
    """A denoiser of one or a few calls, trained from scratch or from a trained start.

    Args:
        generator: a denoiser of a flow or a VP process.
        discriminator: conditioned on t if there are several steps; a copy of the generator when None.
        num_steps: network calls of an image.
        transport: weight of the transport cost at the start of the run.
        transport_end: and at its end.
        normalise: divide the adversarial gradient by the root of the running mean of its squared norm.
        decay: of that mean.
        objective: adversarial loss; relativistic pairs when None.
        penalty: one penalty or several on the discriminator; those of the paper when None.
    """

    generator: Denoiser
    discriminator: Discriminator

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        num_steps: int = 1,
        transport: float = 0.2,
        transport_end: float = 0.01,
        normalise: bool = True,
        decay: float = 0.9,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(transport=transport, transport_end=transport_end)
        check_begins_in_noise(generator)
        if not 0 <= decay < 1:
            raise ValueError(f"`decay={decay}` must lie in [0, 1)")
        scale = float(generator.process.sigma(torch.ones(1)))
        if scale > 1.01:
            raise ValueError(
                f"`process={type(generator.process).__name__}` ends at noise of scale {scale:.3g}, and a cost of "
                "transport means nothing there: use a flow or VP"
            )
        discriminator = discriminator or DenoiserDiscriminator(generator)
        check_single(discriminator)
        check_told(discriminator, generator.takes_labels)
        super().__init__(generator, discriminator)
        self.levels = sampler_levels(generator.process, self.sampler, num_steps, generator.prediction)
        self.sample_steps = num_steps
        self.transport, self.transport_end = transport, transport_end
        self.normalise, self.decay = normalise, decay
        self.objective = objective or Relativistic()
        weight = 0.5 / num_steps  # of the paper's 0.25 (s - t) / std^2
        paper: list[Penalty] = [ApproximateR1(weight=weight), ApproximateR2(weight=weight), Centring()]
        self.penalties = paper if penalty is None else penalties_of(penalty)
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.square: Tensor
        self.seen: list[Tensor] = []  # of this step

    def rollout(self, batch: Batch) -> AFMRollout:
        step = flow_map(self.generator, batch, self.levels)
        given = Given(labels=batch.labels, t=step.t, condition=batch.condition)
        return AFMRollout(step, self.discriminator.views(step.x_t_real, step.x_t_fake, given, batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: AFMRollout) -> Losses:
        self.seen = []
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: AFMRollout) -> Losses:
        step = rollout.step
        cost = (step.x_t_fake - step.x_s).square().flatten(1).mean(1)
        weight = cosine(self.transport, self.transport_end, self.step / self.steps)
        self.log(transport=cost.mean(), transport_weight=weight)
        adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
        losses: Losses = {"adversarial": self.normalised(adversarial, step.x_t_fake) if self.normalise else adversarial}
        if weight > 0:
            losses["transport"] = weight * (cost / (step.s - step.t).clamp(min=1e-3)).mean()
        return losses

    def normalised(self, loss: Tensor, fake: Tensor) -> Tensor:
        """The loss, with its gradient at the fakes divided by the root of the running mean of n times its squared norm.

        So the gradient at n numbers has about the norm 1 / sqrt(n), whatever the scale of the discriminator.
        """
        (gradient,) = torch.autograd.grad(loss, fake, retain_graph=True)
        square = gradient.double().square().sum() * gradient.numel()
        self.seen.append(square)
        mean = torch.where(self.square > 0, torch.lerp(square, self.square.to(square), self.decay), square)
        moved = (gradient / (mean.sqrt() + 1e-8).to(gradient) * fake).sum()
        return moved + (loss - moved).detach()

    @torch.no_grad()
    def after_step(self) -> None:
        if self.seen:
            square = self.discriminator.gather(torch.stack(self.seen)).mean()
            self.square.copy_(torch.where(self.square > 0, torch.lerp(square, self.square, self.decay), square))
            self.seen = []

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`transport_ratio`: squared distance of noises and their images over that of their cheapest pairing.

        At least 1; of up to 256 images, by the exact assignment.
        """
        assert isinstance(generator, Denoiser)
        batch = generator.embed(held_out(data, draws, 256))
        noise = draws.normal(tuple(batch.x_0.shape)).to(batch.x_0)
        steps = dict(condition=batch.condition, latents=noise)
        made = generator.generate(generator.stepper(self.sampler), self.sample_steps, **steps)
        costs = torch.cdist(noise.flatten(1).double(), made.flatten(1).double()).square().cpu()
        cheapest = costs[linear_sum_assignment(costs.numpy())].mean()
        return {"transport_ratio": float(costs.diagonal().mean() / cheapest)}
