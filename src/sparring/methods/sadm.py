"""SADM: structure-guided adversarial training (Yang et al., arXiv 2402.17563, CVPR 2024).

The denoiser reproduces the pair-wise structure of a mini-batch in the feature space of an encoder, and the encoder is
trained to see the difference:

    S(theta, phi) = Delta( A(E_phi(x_0)), A(E_phi(x0_pred)) )            structural distance between affinity matrices
    min_theta  L_diffusion + lambda S,      max_phi  S - R(phi)

Fake: the one-step predictions of the batch, index-aligned with the real images; no sampler runs. Judge: the structure
discriminator, which compares and gives no logits. The paper establishes these; affinity, distance, encoder, weight,
schedule and the weighting over noise levels are our choices (see docs/methods/sadm.md). So are the other fakes: the end
of a simulated sampler, or one step of the reverse chain.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from sparring.condition import Condition
from sparring.data import Batch, ImageData
from sparring.denoiser import Denoiser, Prediction
from sparring.discriminators import StructureDiscriminator, freeze
from sparring.methods.method import Losses, Method, denoising_error, denoising_loss, images_to_learn
from sparring.process import per_image
from sparring.process.times import Times, Uniform
from sparring.process.weighting import Sigmoid, Weighting
from sparring.rollout import (
    Noised,
    OneForAll,
    OneStep,
    deterministic,
    draw_path,
    log_snr_of_start,
    noise,
    posterior_step,
    simulate,
)

START_EVERY = 10  # steps between looks through the encoder as it was at its start


@dataclass
class Compared:
    """What the rollout hands to both losses.

    Attributes:
        noised: input of the denoising loss.
        condition: what the network is told there.
        prediction: its prediction, where the rollout has made it.
        real: what the judge compares, [B, C, H, W]; None in mode "off".
        fake: its counterpart, with the graph of the rollout.
        weight: [B] weight of each image; a pair has the geometric mean of its two.
    """

    noised: Noised
    condition: Condition
    prediction: Prediction | None = None
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
        fake: what is compared with the real batch: "one_step" predictions (the paper); the end of a sampler that is
            simulated from a drawn level ("simulate"); the draw of a less noisy batch from a noisier one, both of them
            noisy ("posterior_step").
        scheduler: the sampler of "simulate", deterministic: "ddim", "dpm", "euler", "heun".
        num_steps: length of the path of "simulate"; number of noise levels of "posterior_step".
        num_grad_steps: number of simulated steps, drawn at random, that carry gradient.
        shared_t: one noise level for all images of a batch, with "one_step"; the others have theirs in any case.
        judged: "images", decoded where the denoiser works on latents; or "latents", by an encoder that takes them.
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
        fake: Literal["one_step", "simulate", "posterior_step"] = "one_step",
        scheduler: str = "ddim",
        num_steps: int = 5,
        num_grad_steps: int = 1,
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
        if fake == "posterior_step" and judged == "images" and generator.space is not None:
            raise ValueError("`fake=posterior_step` compares noisy latents, which have no images: set judged='latents'")
        if shared_t and fake != "one_step":
            raise ValueError(f"`shared_t` belongs to `fake=one_step`; `fake={fake}` draws its levels by itself")
        super().__init__(generator, discriminator if mode == "adversarial" else None)
        self.frozen_structure = freeze(discriminator) if mode == "frozen" else None
        self.structure_weight = structure_weight
        self.structure_weighting = structure_weighting or Sigmoid(bias=0.0)
        self.fake = fake
        self.num_steps = num_steps
        self.num_grad_steps = num_grad_steps
        if fake == "simulate":
            self.scheduler = deterministic(generator, scheduler, num_steps, num_grad_steps)
            self.starts = [log_snr_of_start(self.scheduler, num_steps, start) for start in range(num_steps)]
            self.sampler = scheduler if mode != "off" else self.sampler
        self.judged = judged
        self.ramp_steps = ramp_steps
        self.delay_steps = delay_steps
        self.times = OneForAll(times or Uniform()) if shared_t and mode != "off" else times or Uniform()
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
        else:
            images, labels = images_to_learn(data)
            mean = torch.zeros(len(images), *self.generator.latent_shape(data.image_shape))
            assert self.generator.space is not None
            self.structure.prepare(self.generator.space.encode(images, mean), labels)

    def rollout(self, batch: Batch) -> Compared:
        process = self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        made = Compared(noised, self.generator.dropped(batch))
        if self.structure is None or self.fake == "one_step":
            made.prediction = self.generator(noised.x_t, noised.t, made.condition)
        if self.structure is None:
            return made
        made.real = batch.x_0 if self.judged == "latents" else batch.images
        if made.prediction is not None:
            made.fake, log_snr = self.judged_form(made.prediction.x0), process.log_snr(noised.t)
        elif self.fake == "simulate":
            x_0, start = self.simulated(batch)
            # the end is clean, but what it can know of its real image was settled at its start
            made.fake, log_snr = self.judged_form(x_0), torch.full_like(noised.t, start)
        else:
            step = posterior_step(self.generator, batch, torch.linspace(0, 1, self.num_steps + 1))
            scale = per_image(torch.hypot(process.alpha(step.s), process.sigma(step.s)), step.x_s_real)
            made.real, made.fake, log_snr = step.x_s_real / scale, step.x_s_fake / scale, process.log_snr(step.t)
        made.weight = self.structure_weighting(log_snr)
        return made

    def simulated(self, batch: Batch) -> tuple[Tensor, float]:
        """The end of a drawn path, with a graph where the structure has weight, and the log-SNR at its start."""
        path = draw_path(batch.draws, self.num_steps, self.num_grad_steps)
        grad_steps = path.grad_steps if self.strength > 0 else ()
        x_0 = simulate(
            self.generator, batch, self.scheduler, num_steps=self.num_steps, start=path.start, grad_steps=grad_steps
        )
        return x_0, self.starts[path.start]

    def judged_form(self, x_0: Tensor) -> Tensor:
        """Clean fakes as the judge takes them."""
        return x_0 if self.judged == "latents" else self.generator.decode(x_0)

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
        losses: Losses = {}
        if fake.prediction is not None:
            step = OneStep(fake.noised, fake.prediction)
            losses["diffusion"] = denoising_error(self.generator, step, self.weighting).mean()
        else:
            noised, condition = fake.noised, fake.condition
            losses["diffusion"] = lambda: denoising_loss(self.generator, noised, condition, self.weighting)
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
