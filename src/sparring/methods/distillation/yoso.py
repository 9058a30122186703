"""YOSO: You Only Sample Once, a self-cooperative diffusion GAN (Luo et al., arXiv 2403.12931).

Status: proven on digits at one call, against its discriminator off and random; behind D2O (docs/results/students.md).

A denoiser becomes a generator of one call. The "real" image of its discriminator is not an image of the data but the
student's own prediction of the same image from a lower noise level, which is a nearer target:

    x_t = alpha_t x_0 + sigma_t eps,      s = max(t - cooperation, 0),      u = max(t - neighbour, 0),    the same eps
    real = sg xhat(x_s),                  fake = xhat(x_t)
    L_D = sp(-D(real | t)) + sp(D(fake | t)),                                          sp(a) = log(1 + e^a)
    L_G = adversarial_weight sp(-D(fake | t)) + consistency_weight c |F(fake) - F(sg xhat(x_u))|^2
          + data_weight min(SNR_t, 5) |fake - x_0|^2,     c = min(1 / (sigma_t / alpha_t - sigma_u / alpha_u), 5)

F is the middle of the frozen start at the cleanest level it knows, D the same half of a copy that learns, with a head,
given t. At s = 0 a prediction is the image itself, so the chain of "real" images ends at the data: the boundary
condition, which a network of v, a flow or EDM's target has by itself. It is why a network of x_0 is refused.

Fake: one prediction at any level, pure noise among them. The losses, weights (1, 2, 1/2), distances in t (250 and 25 of
1000) and D's network are the official code's. Ours: the head's layers, means over numbers, full training in place of
adapters (which a setting such as sd15 has), the rates of the recipe. Its start from an informative prior is left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import (
    DenoiserAndHead,
    Given,
    MiddleHead,
    Views,
    generator_loss,
)
from sparring.generators import Denoiser
from sparring.generators.middle import freeze_after_middle, middle_map
from sparring.methods.method import Losses, Method, check_weights, frozen_copy
from sparring.networks.frozen import copy_of_trained
from sparring.objectives import NonSaturating, Objective, Penalty, penalties_of
from sparring.process import Times, Uniform
from sparring.rollout import Noised, noise


@dataclass
class YOSORollout:
    """Noised images, the student's prediction of them [B, c, h, w] with its graph, and what the discriminator sees."""

    noised: Noised
    fake: Tensor
    views: Views


class YOSO(Method):
    """Distils a trained denoiser into a generator of one call that competes with itself at lower noise.

    Args:
        generator: a trained denoiser of v, eps, flow or EDM's target.
        cooperation: how much lower in t the level is whose prediction counts as real; 1: the data's own images are.
        neighbour: how much lower in t the level is with which predictions are to agree.
        adversarial_weight: weight of the adversarial term; 0 leaves consistency and data, without a discriminator.
        consistency_weight: weight of the agreement with the neighbouring level.
        data_weight: weight of the distance to the data's images.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
        times: levels of the student; uniform when None, up to the noisiest, at which it is sampled.

    Raises:
        ValueError: a negative weight or none at all; levels outside (0, 1]; a network of x_0 or with a latent z.
    """

    generator: Denoiser
    discriminator: DenoiserAndHead | None
    sample_steps = 1

    def __init__(
        self,
        generator: Denoiser,
        *,
        cooperation: float = 0.25,
        neighbour: float = 0.025,
        adversarial_weight: float = 1.0,
        consistency_weight: float = 2.0,
        data_weight: float = 0.5,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
    ):
        weights = dict(
            adversarial_weight=adversarial_weight, consistency_weight=consistency_weight, data_weight=data_weight
        )
        check_weights(**weights)
        for name, value in dict(cooperation=cooperation, neighbour=neighbour).items():
            if not 0 < value <= 1:
                raise ValueError(f"`{name}={value}` is a distance of times and must lie in (0, 1]")
        if generator.prediction == "x0":
            raise ValueError("`prediction=x0`: YOSO's predictions must end at the image itself; start from v or eps")
        if generator.slot is not None:
            raise ValueError("a denoiser that is conditioned on a latent z makes no prediction of its own: start anew")
        opponent = None
        if adversarial_weight > 0:
            copy = freeze_after_middle(copy_of_trained(generator))
            opponent = DenoiserAndHead(copy, MiddleHead(copy))
        super().__init__(generator, opponent)
        self.start = frozen_copy(generator)
        self.cooperation, self.neighbour = cooperation, neighbour
        self.adversarial_weight = adversarial_weight
        self.consistency_weight = consistency_weight
        self.data_weight = data_weight
        self.objective = objective or NonSaturating()
        self.penalties = penalties_of(penalty)
        self.times = times or Uniform()

    def rollout(self, batch: Batch) -> YOSORollout:
        process = self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        fake = self.generator(noised.x_t, noised.t, batch.condition).x0
        if self.head is None:
            return YOSORollout(noised, fake, Views())
        real = self.earlier(batch, noised, self.cooperation)[0]
        given = Given(labels=batch.labels, t=noised.t, condition=batch.condition)
        return YOSORollout(noised, fake, Views([real], [fake], given))

    @property
    def head(self) -> MiddleHead | None:
        return None if self.discriminator is None else self.discriminator.head

    @torch.no_grad()
    def earlier(self, batch: Batch, noised: Noised, distance: float) -> tuple[Tensor, Tensor]:
        """The student's prediction from the same noise at a lower level, and the time [B] of it."""
        process = self.generator.process
        t = (noised.t - distance).clamp(min=0)
        x_t = process.add_noise(noised.x_0, noised.eps, t)
        return self.generator(x_t, t, batch.condition).x0, t

    def discriminator_loss(self, batch: Batch, rollout: YOSORollout) -> Losses:
        assert self.head is not None
        return self.discriminator_terms(self.head, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: YOSORollout) -> Losses:
        losses: Losses = {}
        if self.head is not None:
            adversarial = generator_loss(self.head, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        if self.consistency_weight > 0:
            losses["consistency"] = self.consistency_weight * self.consistency(batch, rollout)
        if self.data_weight > 0:
            error = (rollout.fake - rollout.noised.x_0).square().flatten(1).mean(1)
            weight = self.generator.process.log_snr(rollout.noised.t).exp().clamp(max=5)
            losses["data"] = self.data_weight * (weight * error).mean()
        return losses

    def consistency(self, batch: Batch, rollout: YOSORollout) -> Tensor:
        """Weighted squared distance of the frozen start's features to those of the prediction from a little lower."""
        target, u = self.earlier(batch, rollout.noised, self.neighbour)
        clean = self.generator.process.snap(torch.zeros_like(u))
        with torch.no_grad():
            target = middle_map(self.start, target, clean, batch.condition)
        distance = (middle_map(self.start, rollout.fake, clean, batch.condition) - target).square().flatten(1).mean(1)
        noise_of = lambda t: torch.exp(-0.5 * self.generator.process.log_snr(t))  # noqa: E731
        gap = noise_of(rollout.noised.t) - noise_of(u)
        return ((1 / gap.clamp(min=1e-6)).clamp(max=5) * distance).mean()
