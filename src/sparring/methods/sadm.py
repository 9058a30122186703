"""SADM: structure-guided adversarial training (Yang et al., arXiv 2402.17563, CVPR 2024).

The denoiser reproduces the pair-wise structure of a mini-batch in the feature space of an encoder, and the encoder is
trained to see the difference:

    S(theta, phi) = Delta( A(E_phi(x_0)), A(E_phi(x0_pred)) )            structural distance between affinity matrices
    min_theta  L_diffusion + lambda S,      max_phi  S - R(phi)

Fake: the one-step predictions of the batch, index-aligned with the real images; no sampler runs. Judge: the structure
discriminator, which compares and gives no logits. The paper establishes these; affinity, distance, encoder, weight,
schedule and the weighting over noise levels are our choices (see docs/methods/sadm.md).
"""

from typing import Literal, cast

from torch import Tensor

from sparring.data import Batch
from sparring.denoiser import Denoiser
from sparring.discriminators import StructureDiscriminator, freeze
from sparring.methods.method import Losses, Method, denoising_error
from sparring.process.times import Times, Uniform
from sparring.process.weighting import Sigmoid, Weighting
from sparring.rollout import OneStep, one_step


class SADM(Method):
    """Structure-guided adversarial training.

    Args:
        generator: the denoiser to train or tune.
        discriminator: encoder, affinity and distance of the structure.
        mode: "adversarial" trains the encoder; "frozen" keeps it (structure guidance, the non-adversarial control);
            "off" is plain diffusion training, bit for bit.
        structure_weight: lambda, the weight of the structural distance for the denoiser.
        structure_weighting: weight of a sample's pairs over log-SNR; alpha^2 / (alpha^2 + sigma^2) when None.
        ramp_steps: steps over which lambda rises from 0.
        delay_steps: steps before lambda starts to rise (training from scratch).
        times: distribution of the noise level; uniform in time when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: StructureDiscriminator,
        *,
        mode: Literal["adversarial", "frozen", "off"] = "adversarial",
        structure_weight: float = 0.1,
        structure_weighting: Weighting | None = None,
        ramp_steps: int = 0,
        delay_steps: int = 0,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        if structure_weight <= 0:
            raise ValueError(f"`structure_weight={structure_weight}` must be positive; use mode 'off' to switch it off")
        super().__init__(generator, discriminator if mode == "adversarial" else None)
        self.frozen_structure = freeze(discriminator) if mode == "frozen" else None
        self.structure_weight = structure_weight
        self.structure_weighting = structure_weighting or Sigmoid(bias=0.0)
        self.ramp_steps = ramp_steps
        self.delay_steps = delay_steps
        self.times = times or Uniform()
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

    def rollout(self, batch: Batch) -> OneStep:
        return one_step(self.generator, batch, self.times)

    def discriminator_loss(self, batch: Batch, fake: OneStep) -> Losses:
        assert self.structure is not None
        image = self.generator.decode(fake.prediction.x0.detach())
        distance = self.structure(batch.images, image, self.pair_weight(fake))
        self.log(structure=distance)
        return dict(self.structure.losses(distance))

    def generator_loss(self, batch: Batch, fake: OneStep) -> Losses:
        losses: Losses = {"diffusion": denoising_error(self.generator, fake, self.weighting).mean()}
        strength = self.structure_weight * self.ramp(self.ramp_steps, self.delay_steps)
        if self.structure is not None and strength > 0:
            image = self.generator.decode(fake.prediction.x0)
            distance = self.structure(batch.images, image, self.pair_weight(fake))
            losses["structure"] = strength * distance
        return losses

    def pair_weight(self, fake: OneStep) -> Tensor:
        """[B] weight omega(t) of each sample; a pair is weighted by the geometric mean of its two."""
        return self.structure_weighting(self.generator.process.log_snr(fake.noised.t))
