"""ADT: adversarial diffusion tuning (Shen et al., arXiv 2504.11423).

Status: proven on small images, at 3 to 20 NFE (docs/results/adt.md).

Training sees noised true images in one pass; inference iterates on the model's own outputs. ADT simulates the sampler
during training and lets a discriminator judge the final image:

    L_G = adversarial_weight * L_adv(xhat_0, x_0) + diffusion_weight * L_diffusion
    L_D = L_adv(stopgrad(xhat_0), x_0)

Fake: the sampler's final image, started at a level drawn uniformly from the inference path with the real image noised
to it; the network's input is detached at every step and a subset of k steps carries gradient. Judge: a siamese
discriminator on a frozen backbone, which compares the fake with the real image it started from or, better in what we
measured, with another one. From the paper's abstract and its summaries: simulation, uniform start, siamese network on a
fixed backbone, the kept diffusion loss, the stopped input and the subset of steps. Ours: hinge loss, similarity,
weights, k, warm-up (see docs/methods/adt.md).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import SiameseDiscriminator
from sparring.generators import Condition, Denoiser
from sparring.methods.method import Losses, Method, check_not_negative
from sparring.objectives import Hinge, Objective, discriminator_statistics
from sparring.process import Times, Weighting
from sparring.rollout import Noised, coefficients, denoising_loss, draw_path, noise, simulate
from sparring.rollout.simulate import deterministic, equalising


@dataclass
class Simulated:
    """What the rollout hands to both losses; all but the input of the denoising loss is there for a judge only.

    Attributes:
        noised: input of the denoising loss.
        condition: what the network is told there.
        image: what is judged [B, C, H, W].
        fake: the judge's feature maps of it, with the graph of the rollout.
        real: of the real images.
        reference: of what both are compared with; of no meaning to a judge in mode "single".
    """

    noised: Noised
    condition: Condition
    image: Tensor | None = None
    fake: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)
    reference: list[Tensor] = field(default_factory=list)


class ADT(Method):
    """Adversarial tuning on the simulated sampler.

    A network that predicts x_0 ("x0") gets gradient from the sampler's last step alone: give it `choose="last"`.

    Args:
        generator: a trained denoiser.
        discriminator: judges (candidate, reference) pairs of images.
        scheduler: the sampler that is simulated, deterministic: "ddim", "dpm", "unipc", "euler", "heun".
        num_steps: length m of the inference path.
        num_grad_steps: k, the number of simulated steps that carry gradient; memory grows with k and not with m.
        choose: which of the simulated steps: a random subset, or the last k.
        start: "uniform" draws the start from the path, "noise" always begins at its noisiest level.
        normalise_coeff: divide each step's gradient by its coefficient |c_i|, relative to their mean.
        guidance: scale of classifier-free guidance in the rollout, or several to draw one from for each batch.
        reference: "paired" compares with the image the rollout started from, "unpaired" with another one of the batch.
        adversarial_weight: weight of the adversarial term; 0 is plain diffusion training, bit for bit.
        diffusion_weight: weight of the ordinary denoising loss; 0 switches it off.
        warmup_steps: discriminator-only steps before the generator gets adversarial gradient.
        ramp_steps: steps over which the adversarial term then rises.
        objective: adversarial loss.
        times: distribution of the noise level of the denoising loss; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        discriminator: SiameseDiscriminator,
        *,
        scheduler: str = "ddim",
        num_steps: int = 20,
        num_grad_steps: int = 2,
        choose: Literal["random", "last"] = "random",
        start: Literal["uniform", "noise"] = "uniform",
        normalise_coeff: bool = False,
        guidance: float | tuple[float, ...] = 1.0,
        reference: Literal["paired", "unpaired"] = "paired",
        adversarial_weight: float = 0.1,
        diffusion_weight: float = 1.0,
        warmup_steps: int = 200,
        ramp_steps: int = 500,
        objective: Objective | None = None,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        weights = (adversarial_weight, diffusion_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError("`adversarial_weight={}`, `diffusion_weight={}`: 0 or more, not both 0".format(*weights))
        check_not_negative(warmup_steps=warmup_steps, ramp_steps=ramp_steps)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.scheduler = deterministic(generator, scheduler, num_steps, num_grad_steps)
        self.sampler = scheduler
        self.num_steps = num_steps
        self.num_grad_steps = num_grad_steps
        self.choose = choose
        self.start = start
        self.grad_scales: list[list[float]] | None = None
        if normalise_coeff:
            self.grad_scales = [equalising(coefficients(self.scheduler, num_steps, i)) for i in range(num_steps)]
        self.guidance = guidance if isinstance(guidance, tuple) else (guidance,)
        self.check_guidance()
        self.reference = reference
        self.adversarial_weight = adversarial_weight
        self.diffusion_weight = diffusion_weight
        self.warmup_steps = warmup_steps
        self.ramp_steps = ramp_steps
        self.objective = objective or Hinge()
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        self.check_guidance()
        if self.reference == "unpaired" and batch_size < 2:
            raise ValueError(
                f"`reference=unpaired` needs at least 2 images at once and gets {batch_size}: give a larger "
                "`batch_size` or a smaller `accumulation`, or judge single images with `discriminator.mode=single`"
            )

    def check_guidance(self) -> None:
        """Raises ValueError where guidance needs a class for "none" and the network has none to spare."""
        if any(scale != 1 for scale in self.guidance) and self.generator.text is None:
            self.generator.null_class  # noqa: B018

    def rollout(self, batch: Batch) -> Simulated:
        noised = noise(self.generator.process, batch, self.times(self.generator.process, batch.draws, len(batch)))
        condition = self.generator.dropped(batch)
        if self.discriminator is None:
            return Simulated(noised, condition)
        image = self.generator.decode(self.simulated(batch))
        # the frozen backbone sees every image once a step: both pairs and both updates share the maps
        real = [batch.images]
        if self.judge.mode == "siamese":
            real.append(batch.images if self.reference == "paired" else batch.images.roll(1, 0))
        with torch.no_grad():
            maps = self.judge.feature_maps(real, batch.draws)
        (fake,) = self.judge.feature_maps([image], batch.draws)
        return Simulated(noised, condition, image, fake, real=maps[0], reference=maps[-1])

    def simulated(self, batch: Batch) -> Tensor:
        """The end of a drawn path, with a graph where the adversarial term has weight."""
        path = draw_path(batch.draws, self.num_steps, self.num_grad_steps, choose=self.choose, start=self.start)
        return simulate(
            self.generator,
            batch,
            self.scheduler,
            num_steps=self.num_steps,
            start=path.start,
            grad_steps=path.grad_steps if self.strength > 0 else [],
            grad_scales=None if self.grad_scales is None else self.grad_scales[path.start],
            guidance=self.guidance[batch.draws.one_integer(len(self.guidance))],
        )

    @property
    def judge(self) -> SiameseDiscriminator:
        assert isinstance(self.discriminator, SiameseDiscriminator)
        return self.discriminator

    @property
    def strength(self) -> float:
        """Weight of the adversarial term at this step: 0 during the warm-up of the discriminator, then rising."""
        return self.adversarial_weight * self.ramp(self.ramp_steps, self.warmup_steps)

    def discriminator_loss(self, batch: Batch, fake: Simulated) -> Losses:
        candidates = [fake.real, [maps.detach() for maps in fake.fake]]
        logits_real, logits_fake = self.judge.logits_from_maps(candidates, fake.reference)
        self.log(**discriminator_statistics(logits_real, logits_fake))
        return {"adversarial": self.objective.discriminator(logits_real, logits_fake)}

    def generator_loss(self, batch: Batch, fake: Simulated) -> Losses:
        losses: Losses = {}
        if self.discriminator is not None and self.strength > 0:
            candidates = [fake.fake, fake.real] if self.objective.needs_real else [fake.fake]
            logits = self.judge.logits_from_maps(candidates, fake.reference)
            losses["adversarial"] = self.strength * self.objective.generator(*logits)
        if self.diffusion_weight > 0:
            noised, condition = fake.noised, fake.condition
            losses["diffusion"] = lambda: (
                self.diffusion_weight * denoising_loss(self.generator, noised, condition, self.weighting)
            )
        return losses
