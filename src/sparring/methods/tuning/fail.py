"""FAIL: flow matching with adversarial imitation learning (arXiv 2602.12155).

Status: no gain; worse than plain training of equal calls and than ADT on a briefly trained model (docs/results/adt.md).

The images of the data set are an expert's demonstrations; a discriminator that tells them from the model's own samples
takes the place of a reward. The policy is updated in one of two ways:

    pathwise (FAIL-PD):  x_0 = sg rollout(eps);  t from the sampler's levels, s the next one
        x_t = add_noise(x_0, eps, t);  one call, one step to s;  x_0' = (x_s - sigma_s eps) / alpha_s
        L_G = E L_adv( D(x_0') ) + anchor
    policy (FAIL-PG):    n own samples and the expert's image for each row
        reward = softplus(D), high for the expert's;  A = clip(z-score over the n + 1, -5, 5)
        L_G = E A |output - target|^2 + anchor         (fit what the discriminator likes, unlearn the rest)
    L_D = L_adv(real, x_0);   anchor = anchor_weight |output - sg output of the start|^2

Fake: the model's own sample x_0 from eps, without a graph. The discriminator learns from x_0 and not from x_0', after
the generator's update. Unlike in ADT no gradient runs along the sampler: it is one call at a noised own sample, and
nearly all of it lies at high noise (of a flow x_0' - x_0 grows as (s - t) / (1 - s)). From the official code: both
losses, the eps that is kept, the order of the players, the constants. Ours: any Gaussian path; the group is a row, its
samples and its image; one pass over each rollout, in which PPO's ratio is 1 and its clip never acts: both are left out.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sparring.data import Batch
from sparring.discriminators import (
    Discriminator,
    Features,
    Given,
    Views,
    check_single,
    check_told,
    generator_loss,
)
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, frozen_copy
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.objectives.policy import advantages_in_group
from sparring.rollout import (
    check_begins_in_noise,
    deterministic_scheduler,
    own_image,
    real_and_fake,
    standard_normal,
    step_from_image,
)


@dataclass
class FAILRollout:
    """Own samples of each row with the noise they began as, n times [B, C, H, W], and what the discriminator sees.

    Attributes:
        images: the samples, without a graph.
        eps: their noise.
        views: features of the real images and of the first sample.
        advantages: [B, n + 1] of the samples and, last, of the real image; None for the pathwise update.
    """

    images: list[Tensor]
    eps: list[Tensor]
    views: Views
    advantages: Tensor | None = None


class FAIL(Method):
    """Tunes a denoiser by imitation of the data set's images.

    Args:
        generator: a trained denoiser.
        discriminator: any that sees single images.
        update: "pathwise" (FAIL-PD) or "policy" (FAIL-PG).
        scheduler: the sampler whose samples are compared, deterministic: "ddim", "dpm", "unipc", "euler", "heun".
        num_steps: its steps.
        draws: noise levels per image and step: t of the pathwise update, t and noise of the policy's.
        samples: n, own samples of each row for the policy's update.
        anchor_weight: of the squared distance to the output of the start; None: 0, and for "policy" 0.05.
        discriminator_input: what the discriminator sees as real if the denoiser works on latents: "decoded" latents, as
            the fakes are, or the "pixels" of the data.
        objective: adversarial loss; the non-saturating one when None. The policy's update reads only the logits.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a setting out of range, a discriminator that compares, or is not conditioned on classes where
            nothing else holds them.
    """

    generator: Denoiser
    discriminator: Discriminator
    generator_first = True

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        update: Literal["pathwise", "policy"] = "pathwise",
        scheduler: str = "ddim",
        num_steps: int = 10,
        draws: int = 2,
        samples: int = 3,
        anchor_weight: float | None = None,
        discriminator_input: Literal["decoded", "pixels"] = "decoded",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if update not in ("pathwise", "policy"):
            raise ValueError(f"`update={update}` must be pathwise or policy")
        for name, value, least in (("num_steps", num_steps, 2), ("draws", draws, 1), ("samples", samples, 1)):
            if value < least:
                raise ValueError(f"`{name}={value}` must be at least {least}")
        check_not_negative(anchor_weight=anchor_weight or 0.0)
        check_single(discriminator)
        check_told(discriminator, generator.takes_labels and update == "pathwise" and not anchor_weight)
        check_begins_in_noise(generator)
        super().__init__(generator, discriminator)
        self.policy = update == "policy"
        self.anchor_weight = (0.05 if self.policy else 0.0) if anchor_weight is None else anchor_weight
        self.start = frozen_copy(generator) if self.anchor_weight > 0 else None
        self.scheduler = deterministic_scheduler(generator, scheduler, num_steps, 1)
        self.sampler, self.sample_steps, self.num_steps = scheduler, num_steps, num_steps
        self.times = generator.process.default_times()
        self.draws, self.samples = draws, samples if self.policy else 1
        self.discriminator_input = discriminator_input
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)

    @property
    def levels(self) -> Tensor:
        """Times [num_steps] of the sampler's steps, falling; Heun calls the network twice at most of them."""
        times = self.generator.process.t_from_model_time(self.scheduler.timesteps.float())
        return times.unique(sorted=True).flip(0)

    def rollout(self, batch: Batch) -> FAILRollout:
        given = Given(labels=batch.labels, condition=batch.condition)
        eps = [standard_normal(batch) for _ in range(self.samples)]
        images = [own_image(self.generator, self.scheduler, self.num_steps, z, batch.condition) for z in eps]
        with torch.no_grad():
            pairs = [real_and_fake(self.generator, batch, image, self.discriminator_input) for image in images]
            seen = [self.discriminator.features(x, given, batch.draws) for x in (*(f for _, f in pairs), pairs[0][0])]
            rewards = [self.reward(features, given) for features in seen] if self.policy else []
        advantages = advantages_in_group(torch.stack(rewards, dim=1)) if self.policy else None
        return FAILRollout(images, eps, Views(seen[-1], seen[0], given), advantages)

    def reward(self, features: Features, given: Given) -> Tensor:
        """[B] how much the discriminator takes images for real: -log of its probability of a fake."""
        return softplus(self.discriminator.logits(features, given).view(len(features[0]), -1).mean(1))

    def generator_loss(self, batch: Batch, rollout: FAILRollout) -> Losses:
        if rollout.advantages is None:
            loss = torch.stack([self.pathwise(batch, rollout) for _ in range(self.draws)]).mean()
            losses: Losses = {"pathwise": loss}
        else:
            self.log(advantage_of_reals=rollout.advantages[:, -1].mean())
            losses = {"policy": self.weighted(batch, rollout, rollout.advantages)}
        if self.start is not None:
            losses["anchor"] = lambda: self.anchor_weight * self.distance_to_start(batch, rollout)
        return losses

    def pathwise(self, batch: Batch, rollout: FAILRollout) -> Tensor:
        """The adversarial loss of own samples that went one step of the sampler, from one drawn level each."""
        index = batch.draws.integers(len(self.levels) - 1, (len(batch),))
        levels = self.levels.to(batch.x_0.device)
        x_0, eps = rollout.images[0], rollout.eps[0]
        moved = step_from_image(self.generator, x_0, eps, levels[index], levels[index + 1], batch.condition)
        _, fake = real_and_fake(self.generator, batch, moved, self.discriminator_input)
        given, real = rollout.views.given, rollout.views.real
        views = Views(real, self.discriminator.features(fake, given, batch.draws), given)
        return generator_loss(self.discriminator, views, self.objective)

    def weighted(self, batch: Batch, rollout: FAILRollout, weights: Tensor) -> Tensor:
        """The denoising error of own samples and of the real image, each times its advantage."""
        process, errors = self.generator.process, []
        for x_0 in [*rollout.images, batch.x_0]:
            drawn = []
            for _ in range(self.draws):
                t, eps = self.times(process, batch.draws, len(batch)), standard_normal(batch)
                prediction = self.generator(process.add_noise(x_0, eps, t), t, batch.condition)
                drawn.append(self.generator.output_error(prediction, x_0, eps))
            errors.append(torch.stack(drawn).mean(0))
        return (weights * torch.stack(errors, dim=1)).mean()

    def distance_to_start(self, batch: Batch, rollout: FAILRollout) -> Tensor:
        """Mean squared distance of the network's output to that of the start, at a noised own sample."""
        assert self.start is not None
        process = self.generator.process
        t, eps = self.times(process, batch.draws, len(batch)), standard_normal(batch)
        x_t = process.add_noise(rollout.images[0], eps, t)
        with torch.no_grad():
            before = self.start(x_t, t, batch.condition).output
        return (self.generator(x_t, t, batch.condition).output - before).square().mean()

    def discriminator_loss(self, batch: Batch, rollout: FAILRollout) -> Losses:
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)
