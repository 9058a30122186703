"""ADT: adversarial diffusion tuning (Shen et al., arXiv 2504.11423).

Status: proven on small images, at few NFE of DDIM and not over UniPC (docs/results/adt.md).

Training sees noised true images in one pass; inference iterates on the model's own outputs. ADT simulates the sampler
during training and shows the final image to a discriminator:

    L_G = adversarial_weight * L_adv(xhat_0, x_0) + diffusion_weight * L_diffusion
    L_D = L_adv(stopgrad(xhat_0), x_0)

Fake: the sampler's final image, started at a level drawn uniformly from the inference path with the real image noised
to it; the network's input is detached at every step and a subset of k steps carries gradient. Discriminator: a siamese
one on a frozen backbone, which compares the fake with the real image it started from or, better in what we
measured, with another one. From the paper's abstract and its summaries: simulation, uniform start, siamese network on a
fixed backbone, the kept diffusion loss, the stopped input and the subset of steps. Ours: hinge loss, similarity,
weights, k, warm-up (see docs/methods/adt.md).
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, generator_loss
from sparring.generators import Condition, Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, check_weights
from sparring.objectives import Hinge, Objective, Penalty, penalties_of
from sparring.process import Times, Weighting
from sparring.rollout import (
    DiscriminatorInput,
    Noised,
    coefficients,
    denoising_loss,
    deterministic_scheduler,
    draw_path,
    equalised_scales,
    noise_at,
    real_and_fake,
    simulate,
)
from sparring.runs.choice import check_choice


@dataclass
class ADTRollout:
    """What both losses take; all but the input of the denoising loss is empty without a discriminator.

    Attributes:
        noised: input of the denoising loss.
        condition: what the network is conditioned on there.
        image: the sampler's final image [B, C, H, W].
        views: features of the real images, of the final image, and of the reference images.
    """

    noised: Noised
    condition: Condition
    image: Tensor | None = None
    views: Views = field(default_factory=Views)


class ADT(Method):
    """Adversarial tuning on the simulated sampler.

    A network that predicts x_0 ("x0") gets gradient only from the sampler's last step: give it `choose="last"`.

    Args:
        generator: a trained denoiser.
        discriminator: the siamese discriminator, which compares with a reference image, or any other.
        scheduler: the sampler that is simulated, deterministic: "ddim", "dpm", "unipc", "euler", "heun".
        num_steps: length m of the inference path.
        num_grad_steps: k, the number of simulated steps that carry gradient; memory grows with k and not with m.
        choose: which of the simulated steps: a random subset, or the last k.
        start: "uniform" draws the start from the path, "noise" always begins at its noisiest level.
        normalise_coeff: divide each step's gradient by its coefficient |c_i|, relative to their mean.
        guidance: scale of classifier-free guidance in the rollout, or several to draw one from for each batch.
        reference: "paired" compares with the image the rollout started from, "unpaired" with another one of the batch;
            read only with a discriminator that compares.
        discriminator_input: what the discriminator sees as real if the denoiser works on latents: "decoded" latents, as
            the fakes are, or the "pixels" of the data.
        adversarial_weight: weight of the adversarial term; 0 is plain diffusion training, bit for bit.
        diffusion_weight: weight of the ordinary denoising loss; 0 switches it off.
        warmup_steps: discriminator-only steps before the generator gets adversarial gradient.
        ramp_steps: steps over which the adversarial term then rises.
        objective: adversarial loss; hinge when None.
        penalty: one penalty or several on the discriminator.
        times: distribution of the noise level of the denoising loss; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        scheduler: str = "ddim",
        num_steps: int = 20,
        num_grad_steps: int = 2,
        choose: Literal["random", "last"] = "random",
        start: Literal["uniform", "noise"] = "uniform",
        normalise_coeff: bool = False,
        guidance: float | tuple[float, ...] = 1.0,
        reference: Literal["paired", "unpaired"] = "paired",
        discriminator_input: Literal["decoded", "pixels"] = "decoded",
        adversarial_weight: float = 0.1,
        diffusion_weight: float = 1.0,
        warmup_steps: int = 200,
        ramp_steps: int = 500,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_choice("random", "last", choose=choose)
        check_choice("uniform", "noise", start=start)
        check_choice("paired", "unpaired", reference=reference)
        check_choice("decoded", "pixels", discriminator_input=discriminator_input)
        check_weights(adversarial_weight=adversarial_weight, diffusion_weight=diffusion_weight)
        check_not_negative(warmup_steps=warmup_steps, ramp_steps=ramp_steps)
        if discriminator.needs_reference == "aligned" and reference == "unpaired":
            raise ValueError(
                f"`reference=unpaired`: {type(discriminator).__name__} compares a fake with the image it was made "
                "from; use `reference=paired`"
            )
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.scheduler = deterministic_scheduler(generator, scheduler, num_steps, num_grad_steps)
        self.sampler = scheduler
        self.num_steps = num_steps
        self.num_grad_steps = num_grad_steps
        self.choose = choose
        self.start = start
        self.grad_scales: list[list[float]] | None = None
        if normalise_coeff:
            self.grad_scales = [equalised_scales(coefficients(self.scheduler, num_steps, i)) for i in range(num_steps)]
        self.guidance = guidance if isinstance(guidance, tuple) else (guidance,)
        self.check_guidance()
        self.reference = reference
        self.discriminator_input: DiscriminatorInput = discriminator_input
        self.adversarial_weight = adversarial_weight
        self.diffusion_weight = diffusion_weight
        self.warmup_steps = warmup_steps
        self.ramp_steps = ramp_steps
        self.objective = objective or Hinge()
        self.penalties = penalties_of(penalty)
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        self.check_guidance()
        compares = self.discriminator is not None and self.discriminator.needs_reference != "no"
        if compares and self.reference == "unpaired" and batch_size < 2:
            raise ValueError(
                f"`reference=unpaired` needs at least 2 images at once and gets {batch_size}: give a larger "
                "`batch_size` or a smaller `accumulation`, or a discriminator of single images (ProjectedDiscriminator)"
            )

    def check_guidance(self) -> None:
        """Raises ValueError if guidance needs a class for "none" and the network has none to spare."""
        if any(scale != 1 for scale in self.guidance) and self.generator.text is None:
            self.generator.null_class  # noqa: B018

    def rollout(self, batch: Batch) -> ADTRollout:
        noised = noise_at(self.generator.process, batch, self.times)
        condition = self.generator.condition_with_dropout(batch)
        if self.discriminator is None:
            return ADTRollout(noised, condition)
        images, image = real_and_fake(self.generator, batch, self.simulated(batch), self.discriminator_input)
        given = Given(labels=batch.labels, condition=batch.condition)
        reference = images if self.reference == "paired" else images.roll(1, 0)
        views = self.discriminator.views(images, image, given, batch.draws, reference)
        return ADTRollout(noised, condition, image, views)

    def simulated(self, batch: Batch) -> Tensor:
        """The end of a drawn path, with a graph if the adversarial term has weight."""
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
    def strength(self) -> float:
        """Weight of the adversarial term at this step: 0 during the warm-up of the discriminator, then rising."""
        return self.adversarial_weight * self.ramp(self.ramp_steps, self.warmup_steps)

    def discriminator_loss(self, batch: Batch, rollout: ADTRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: ADTRollout) -> Losses:
        losses: Losses = {}
        if self.discriminator is not None and self.strength > 0:
            losses["adversarial"] = self.strength * generator_loss(self.discriminator, rollout.views, self.objective)
        if self.diffusion_weight > 0:
            noised, condition = rollout.noised, rollout.condition
            losses["diffusion"] = lambda: (
                self.diffusion_weight * denoising_loss(self.generator, noised, condition, self.weighting)
            )
        return losses
