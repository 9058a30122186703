"""Adversarial tuning: any rollout against any discriminator (arXiv 2402.17563 and others).

Status: proven at four calls, on digits over the best sampler and on Fashion-MNIST over DDIM, with the simulated sampler
and frozen features (docs/results/pairs.md).

The systems of this family differ in what they show a discriminator (the rollout) and in what the discriminator sees
(structure, pairs, features, levels). Each couples one rollout with one discriminator. Here the two are chosen apart,
with everything else held:

    L_G = adversarial_weight * L_adv(fake) + diffusion_weight * L_diffusion,        L_D = L_adv(sg fake, real)

Fakes: the one-step prediction at a drawn level (SADM), one call from pure noise (D2O), a step of a coarse reverse chain
(DDGAN), the sampler's final image (ADT), a student's prediction at one of its own levels (ADD). The denoising loss has
a pass of its own, so that it is the same for all.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Given, Views, check_told, generator_loss
from sparring.discriminators.denoiser_heads import DenoiserHeads
from sparring.generators import Condition, Denoiser
from sparring.methods.method import Losses, Method, check_weights
from sparring.objectives import Hinge, Objective, Penalty, penalties_of
from sparring.process import Times, Weighting
from sparring.rollout import (
    DiscriminatorInput,
    Noised,
    denoising_loss,
    deterministic_scheduler,
    draw_path,
    few_step,
    from_noise,
    noise_at,
    one_step,
    posterior_step,
    real_and_fake,
    simulate,
    student_levels,
)
from sparring.rollout.flow_map import sampler_levels
from sparring.runs.choice import check_choice

ROLLOUTS = ("one_step", "from_noise", "posterior", "simulate", "few_step")


@dataclass
class AdversarialRollout:
    """Input of the denoising loss, what the network is conditioned on there, and what the discriminator sees."""

    noised: Noised
    condition: Condition
    views: Views = field(default_factory=Views)


class Adversarial(Method):
    """Tunes a denoiser by the fakes of a chosen rollout and a chosen discriminator.

    Args:
        generator: a trained denoiser.
        discriminator: any; None: heads on a frozen copy of the denoiser, which see noised images.
        rollout: where fakes come from: "one_step", "from_noise", "posterior", "simulate" or "few_step".
        num_steps: of "posterior" and "simulate", the steps of their path; of "few_step", the student's calls. Several
            to draw one from for each batch, of "simulate" alone.
        scheduler: of "simulate", deterministic; the last of its steps carries gradient.
        discriminator_input: what the discriminator sees as real if the denoiser works on latents: "decoded" latents, as
            the fakes are, or the "pixels" of the data.
        adversarial_weight: weight of the adversarial term; 0 is plain diffusion training, bit for bit.
        diffusion_weight: weight of the ordinary denoising loss.
        objective: adversarial loss; hinge when None.
        penalty: one penalty or several on the discriminator.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: several lengths, but for "simulate"; fakes from pure noise for a discriminator that compares an
            image with the one it was made from; heads on a denoiser, or a step of a chain, where images are decoded;
            fakes of classes for a discriminator that takes none; what `student_levels` refuses.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        rollout: Literal["one_step", "from_noise", "posterior", "simulate", "few_step"] = "simulate",
        num_steps: int | tuple[int, ...] = 4,
        scheduler: str = "ddim",
        discriminator_input: Literal["decoded", "pixels"] = "decoded",
        adversarial_weight: float = 0.5,
        diffusion_weight: float = 1.0,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_choice(*ROLLOUTS, rollout=rollout)
        check_choice("decoded", "pixels", discriminator_input=discriminator_input)
        check_weights(adversarial_weight=adversarial_weight, diffusion_weight=diffusion_weight)
        lengths = num_steps if isinstance(num_steps, tuple) else (num_steps,)
        if len(lengths) != 1 and (rollout != "simulate" or not lengths):
            raise ValueError(f"`num_steps={list(lengths)}`: give one number, or several for `rollout=simulate`")
        opponent = discriminator or DenoiserHeads(generator, width=32)
        check_told(opponent, generator.takes_labels, from_noise=rollout in ("simulate", "from_noise"))
        if opponent.needs_reference == "aligned" and rollout == "from_noise":
            raise ValueError(
                f"`rollout=from_noise`: {type(opponent).__name__} compares a fake with the image it was made from, and "
                "this one is made from noise"
            )
        if generator.space is not None and (rollout == "posterior" or isinstance(opponent, DenoiserHeads)):
            raise ValueError("`rollout=posterior`, or no `discriminator`: a denoiser of latents shows decoded images")
        super().__init__(generator, opponent if adversarial_weight > 0 else None)
        self.kind, self.lengths = rollout, lengths
        if rollout == "simulate":
            self.schedulers = [deterministic_scheduler(generator, scheduler, length, 1) for length in lengths]
        if rollout in ("few_step", "from_noise"):
            student_levels(generator, lengths[0] if rollout == "few_step" else 1)  # are there any?
        if rollout == "posterior":
            self.levels = sampler_levels(generator.process, "ddim", lengths[0], generator.prediction)
        self.discriminator_input: DiscriminatorInput = discriminator_input
        self.adversarial_weight, self.diffusion_weight = adversarial_weight, diffusion_weight
        self.objective = objective or Hinge()
        self.penalties = penalties_of(penalty)
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def rollout(self, batch: Batch) -> AdversarialRollout:
        noised = noise_at(self.generator.process, batch, self.times)
        condition = self.generator.condition_with_dropout(batch)
        if self.discriminator is None:
            return AdversarialRollout(noised, condition)
        real, fake, t, x_t = self.shown(batch)
        if isinstance(self.discriminator, DenoiserHeads):  # it noises what it is shown
            t = self.times(self.generator.process, batch.draws, len(batch))
        given = Given(labels=batch.labels, t=t, x_t=x_t, condition=batch.condition)
        return AdversarialRollout(noised, condition, self.discriminator.views(real, fake, given, batch.draws, real))

    def shown(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Real images and fakes, the times [B] of what the fakes were made from and, of a single call, this itself."""
        denoiser = self.generator
        if self.kind == "posterior":
            step = posterior_step(denoiser, batch, self.levels)
            return step.x_s_real, step.x_s_fake, step.t, step.x_t
        if self.kind == "simulate":
            which = batch.draws.one_integer(len(self.lengths)) if len(self.lengths) > 1 else 0
            length, scheduler = self.lengths[which], self.schedulers[which]
            path = draw_path(batch.draws, length, 1, choose="last")
            settings = dict(num_steps=length, start=path.start, grad_steps=path.grad_steps)
            x_0, x_t = simulate(denoiser, batch, scheduler, **settings), None  # type: ignore[arg-type]
            t = denoiser.process.t_from_model_time(scheduler.timesteps.float())[path.start].expand(len(batch))
        elif self.kind == "from_noise":
            made = from_noise(denoiser, batch, student_levels(denoiser, 1))
            x_0, t, x_t = made.x0, made.t, made.x_t
        elif self.kind == "few_step":
            few = few_step(denoiser, batch, student_levels(denoiser, self.lengths[0]))
            x_0, t, x_t = few.prediction.x0, few.noised.t, few.noised.x_t
        else:
            one = one_step(denoiser, batch, self.times)
            x_0, t, x_t = one.prediction.x0, one.noised.t, one.noised.x_t
        return *real_and_fake(denoiser, batch, x_0, self.discriminator_input), t.to(batch.x_0.device), x_t

    def discriminator_loss(self, batch: Batch, rollout: AdversarialRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: AdversarialRollout) -> Losses:
        losses: Losses = {}
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        if self.diffusion_weight > 0:
            noised, condition = rollout.noised, rollout.condition
            losses["diffusion"] = lambda: (
                self.diffusion_weight * denoising_loss(self.generator, noised, condition, self.weighting)
            )
        return losses
