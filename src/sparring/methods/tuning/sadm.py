"""SADM: structure-guided adversarial training (Yang et al., arXiv 2402.17563, CVPR 2024).

Status: no gain in general; the frozen encoder gains at 2 and 3 NFE on digits, the trained one at 2, and on emoji in
CIFAR-10 features only (docs/results/sadm.md).

The denoiser reproduces the pair-wise structure of a mini-batch in the feature space of an encoder, and the encoder is
trained to see the difference:

    S(theta, phi) = Delta( A(E_phi(x_0)), A(E_phi(x0_pred)) )            structural distance between affinity matrices
    min_theta  L_diffusion + lambda S,      max_phi  S - R(phi)

Fake: the one-step predictions of the batch, index-aligned with the real images; no sampler runs. Discriminator: the
structure discriminator, whose logits are -S, so that the two lines above are the Wasserstein objective. Any other
discriminator tells the predictions from the real images in its place. The paper establishes these; affinity, distance,
encoder, weight, schedule and the weighting over noise levels are our choices (see docs/methods/sadm.md).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from sparring.backbones import freeze, images_to_learn
from sparring.data import Batch, ImageData, StoredImages
from sparring.discriminators import Discriminator, Given, Views, generator_loss
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.objectives import Objective, Penalty, Wasserstein, penalties_of
from sparring.process import Sigmoid, Times, Uncertainty, Weighting
from sparring.rollout import DiscriminatorInput, OneForAll, OneStep, denoising_error, one_step, real_and_fake
from sparring.runs.choice import check_choice


@dataclass
class SADMRollout:
    """The one-step predictions of a batch, and what the discriminator sees of them and of the real images.

    A pair of images has the geometric mean of the two weights in `views.given`.
    """

    step: OneStep
    views: Views = field(default_factory=Views)


class SADM(Method):
    """Structure-guided adversarial training.

    Args:
        generator: the denoiser to train or tune.
        discriminator: the structure discriminator with its encoder, or any other.
        mode: "adversarial" trains the discriminator; "frozen" keeps it (structure guidance, the non-adversarial
            control); "off" is plain diffusion training, bit for bit.
        structure_weight: lambda, the weight of the structural distance for the denoiser.
        structure_weighting: weight of a sample's pairs over log-SNR; alpha^2 / (alpha^2 + sigma^2) when None.
        shared_t: one noise level for all images of a batch.
        discriminator_input: what is compared if the denoiser works on latents: "decoded" latents of both the real
            images and the predictions; the "pixels" of the data with decoded predictions; or the "latents" themselves,
            with a discriminator that takes them.
        objective: adversarial loss; the Wasserstein objective with a ceiling of 0.5 when None.
        penalty: one penalty or several on the discriminator.
        ramp_steps: steps over which lambda rises from 0.
        delay_steps: steps before lambda starts to rise (training from scratch).
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        mode: Literal["adversarial", "frozen", "off"] = "adversarial",
        structure_weight: float = 0.1,
        structure_weighting: Weighting | None = None,
        shared_t: bool = False,
        discriminator_input: DiscriminatorInput = "decoded",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        ramp_steps: int = 0,
        delay_steps: int = 0,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_choice("adversarial", "frozen", "off", mode=mode)
        check_choice("decoded", "pixels", "latents", discriminator_input=discriminator_input)
        if structure_weight <= 0:
            raise ValueError(f"`structure_weight={structure_weight}` must be positive; use mode 'off' to switch it off")
        if discriminator_input == "latents" and generator.space is None:
            raise ValueError("`discriminator_input=latents`: this denoiser works on pixels; leave it out")
        check_not_negative(ramp_steps=ramp_steps, delay_steps=delay_steps)
        if isinstance(structure_weighting, Uncertainty):
            raise ValueError(
                "`structure_weighting=Uncertainty`: it learns from denoising errors; use it as `weighting`"
            )
        super().__init__(generator, discriminator if mode == "adversarial" else None)
        self.frozen_discriminator = freeze(discriminator) if mode == "frozen" else None
        self.structure_weight = structure_weight
        self.structure_weighting = structure_weighting or Sigmoid(bias=0.0)
        self.discriminator_input: DiscriminatorInput = discriminator_input
        self.objective = objective or Wasserstein(ceiling=0.5)
        self.penalties = penalties_of(penalty)
        self.ramp_steps = ramp_steps
        self.delay_steps = delay_steps
        times = times or generator.process.default_times()
        self.times = OneForAll(times) if shared_t and mode != "off" else times
        self.weighting = weighting

    @property
    def opponent(self) -> Discriminator | None:
        """The discriminator, trained or frozen; None in mode "off"."""
        return self.frozen_discriminator or self.discriminator

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        if self.discriminator_input == "latents" and self.opponent is not None and self.opponent.needs_images:
            images, labels = images_to_learn(data)
            space, shape = self.generator.space, self.generator.latent_shape(data.image_shape)
            assert space is not None
            data = StoredImages(space.encode(images, torch.zeros(len(images), *shape)), labels)
        super().prepare(data, seed)

    def rollout(self, batch: Batch) -> SADMRollout:
        step = one_step(self.generator, batch, self.times)
        if self.opponent is None:
            return SADMRollout(step)
        noised = step.noised
        weight = self.structure_weighting(self.generator.process.log_snr(noised.t))
        given = Given(labels=batch.labels, t=noised.t, x_t=noised.x_t, condition=batch.condition, weight=weight)
        real, fake = real_and_fake(self.generator, batch, step.prediction.x0, self.discriminator_input)
        return SADMRollout(step, self.opponent.views(real, fake, given, batch.draws, real))

    @property
    def strength(self) -> float:
        """Weight of the structural distance at this step."""
        return self.structure_weight * self.ramp(self.ramp_steps, self.delay_steps)

    def discriminator_loss(self, batch: Batch, rollout: SADMRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(
            self.discriminator, rollout.views, self.objective, self.penalties, batch.draws, name="structure"
        )

    def generator_loss(self, batch: Batch, rollout: SADMRollout) -> Losses:
        losses: Losses = {"diffusion": denoising_error(self.generator, rollout.step, self.weighting).mean()}
        if self.opponent is not None and self.strength > 0:
            losses["structure"] = self.strength * generator_loss(self.opponent, rollout.views, self.objective)
        return losses
