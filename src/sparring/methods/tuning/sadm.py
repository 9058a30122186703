"""SADM: structure-guided adversarial training (Yang et al., arXiv 2402.17563, CVPR 2024).

Status: no gain with the trained encoder, a gain with the frozen one (docs/results/sadm.md).

The denoiser reproduces the pair-wise structure of a mini-batch in the feature space of an encoder, and the encoder is
trained to see the difference:

    S(theta, phi) = Delta( A(E_phi(x_0)), A(E_phi(x0_pred)) )            structural distance between affinity matrices
    min_theta  L_diffusion + lambda S,      max_phi  S - R(phi)

Fake: the one-step predictions of the batch, index-aligned with the real images; no sampler runs. Judge: the structure
discriminator, which compares and gives no logits. The paper establishes these; affinity, distance, encoder, weight,
schedule and the weighting over noise levels are our choices (see docs/methods/sadm.md).
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from sparring.backbones import freeze, images_to_learn
from sparring.data import Batch, ImageData
from sparring.discriminators import StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.process import Sigmoid, Times, Weighting
from sparring.rollout import OneForAll, OneStep, denoising_error, one_step

START_EVERY = 10  # steps between looks through the encoder as it was at its start


@dataclass
class Compared:
    """What the rollout hands to both losses; all but the step is there for a judge only.

    Attributes:
        step: the one-step predictions of the batch.
        real: what the judge compares, [B, C, H, W].
        fake: its counterpart, with the graph of the rollout.
        weight: [B] weight of each image; a pair has the geometric mean of its two.
    """

    step: OneStep
    real: Tensor | None = None
    fake: Tensor | None = None
    weight: Tensor | None = None


class SADM(Method):
    """Structure-guided adversarial training.

    Args:
        generator: the denoiser to train or tune.
        discriminator: the encoder, and the distance of two structures in its eyes.
        mode: "adversarial" trains the encoder; "frozen" keeps it (structure guidance, the non-adversarial control);
            "off" is plain diffusion training, bit for bit.
        structure_weight: lambda, the weight of the structural distance for the denoiser.
        structure_weighting: weight of a sample's pairs over log-SNR; alpha^2 / (alpha^2 + sigma^2) when None.
        shared_t: one noise level for all images of a batch.
        judged: "images", decoded where the denoiser works on latents; or "latents", by an encoder that takes them.
        ramp_steps: steps over which lambda rises from 0.
        delay_steps: steps before lambda starts to rise (training from scratch).
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        discriminator: StructureDiscriminator,
        *,
        mode: Literal["adversarial", "frozen", "off"] = "adversarial",
        structure_weight: float = 0.1,
        structure_weighting: Weighting | None = None,
        shared_t: bool = False,
        judged: Literal["images", "latents"] = "images",
        ramp_steps: int = 0,
        delay_steps: int = 0,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        if structure_weight <= 0:
            raise ValueError(f"`structure_weight={structure_weight}` must be positive; use mode 'off' to switch it off")
        if judged == "latents" and generator.space is None:
            raise ValueError("`judged=latents`: this denoiser works on pixels; leave it out")
        check_not_negative(ramp_steps=ramp_steps, delay_steps=delay_steps)
        super().__init__(generator, discriminator if mode == "adversarial" else None)
        self.frozen_structure = freeze(discriminator) if mode == "frozen" else None
        self.structure_weight = structure_weight
        self.structure_weighting = structure_weighting or Sigmoid(bias=0.0)
        self.judged = judged
        self.ramp_steps = ramp_steps
        self.delay_steps = delay_steps
        times = times or generator.process.default_times()
        self.times = OneForAll(times) if shared_t and mode != "off" else times
        self.weighting = weighting

    @property
    def structure(self) -> StructureDiscriminator | None:
        """The judge of the structure, trained or frozen; None in mode "off"."""
        return self.frozen_structure or cast(StructureDiscriminator | None, self.discriminator)

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        if self.structure is not None and batch_size < 2:
            raise ValueError(
                f"`batch_size={batch_size}`: SADM compares the pairs of a batch and needs 2 images or more"
            )
        size = None if self.structure is None else self.structure.structure_batch
        if size is not None and batch_size % size and size % batch_size:
            raise ValueError(f"`structure_batch={size}` must divide the {batch_size} images that are seen at once")

    def prepare(self, data: ImageData) -> None:
        if self.structure is None or self.judged == "images":
            super().prepare(data)
        elif self.structure.needs_images:
            images, labels = images_to_learn(data)
            mean = torch.zeros(len(images), *self.generator.latent_shape(data.image_shape))
            assert self.generator.space is not None
            self.structure.prepare(self.generator.space.encode(images, mean), labels)

    def rollout(self, batch: Batch) -> Compared:
        step = one_step(self.generator, batch, self.times)
        if self.structure is None:
            return Compared(step)
        weight = self.structure_weighting(self.generator.process.log_snr(step.noised.t))
        if self.judged == "latents":
            return Compared(step, batch.x_0, step.prediction.x0, weight)
        return Compared(step, batch.images, self.generator.decode(step.prediction.x0), weight)

    @property
    def strength(self) -> float:
        """Weight of the structural distance at this step."""
        return self.structure_weight * self.ramp(self.ramp_steps, self.delay_steps)

    def discriminator_loss(self, batch: Batch, fake: Compared) -> Losses:
        assert self.structure is not None
        assert fake.fake is not None
        fake = replace(fake, fake=fake.fake.detach())
        if self.step % START_EVERY == 0 and self.structure.knows_its_start:
            with torch.no_grad(), self.structure.at_start():
                self.log(structure_start=self.distance(fake))
        distance = self.distance(fake)
        self.log(structure=distance)
        return dict(self.structure.losses(distance))

    def generator_loss(self, batch: Batch, fake: Compared) -> Losses:
        losses: Losses = {"diffusion": denoising_error(self.generator, fake.step, self.weighting).mean()}
        if self.structure is not None and self.strength > 0:
            losses["structure"] = self.strength * self.distance(fake)
        return losses

    def distance(self, made: Compared) -> Tensor:
        """S of what the rollout made."""
        assert self.structure is not None
        assert made.real is not None
        assert made.fake is not None
        assert made.weight is not None
        return self.structure(made.real, made.fake, made.weight)
