"""ADT-turbo: a few-step student keeps its steps on new images (after ADT, Shen et al., arXiv 2504.11423).

Status: proven on digits: two calls of 0.64 on new digits, plain tuning 1.27, a plain LoRA 7.06, and the old ones as
before (docs/results/turbo.md).

There is no paper; this is ADT for students that were distilled (ADD, LCM, turbo networks). Plain tuning has the
conditional mean as its optimum at high noise, so that the student's first calls turn from sharp images to blurred ones.
Here a discriminator sees what the student really makes in k calls from noise, and the student is pulled to its old self
on the classes or captions that it is to keep:

    x_1 = noise;   xh_i = S(x_i, t_i, c);   x_{i+1} = alpha xh_i + sigma eps      (LCM: eps new; DDIM: eps predicted)
    L_D = L_adv(sg xh_k, x_0) + penalty
    L_G = adversarial_weight L_adv(xh_k) + keep_weight E_{c old} mean_i |xh_i - sg S_0(x_i, t_i, c)|^2

Fake: the student's last image, or that of a random call. The discriminator tells it from the new images. The states x_i
of the second term are the student's own, with the gradient stopped between the calls. All choices are ours; see
docs/methods/adt_turbo.md.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch, ImageData
from sparring.discriminators import Discriminator, Given, Views, check_single, generator_loss
from sparring.generators import Denoiser
from sparring.generators.condition import in_turn
from sparring.methods.method import Losses, Method, check_not_negative, frozen_copy
from sparring.objectives import Hinge, Objective, Penalty, penalties_of
from sparring.process import EDM, VP, set_timesteps
from sparring.rollout import check_begins_in_noise, own_calls, real_and_fake
from sparring.runs.choice import check_choice


@dataclass
class TurboRollout:
    """The student's image [B, C, H, W], and what the discriminator sees of it and of the new images."""

    image: Tensor | None = None
    views: Views = field(default_factory=Views)


class ADTTurbo(Method):
    """Adversarial tuning of a few-step student on its own calls.

    Args:
        generator: a few-step student; its state at the start is its old self.
        discriminator: any that sees single images.
        scheduler: the student's own sampler: "lcm" noises anew between the calls, "ddim" is deterministic, for flows
            and EDM Euler's method. None: "lcm" for VP, else "ddim"; EDM has no "lcm".
        num_calls: k, the network calls of the student.
        grad_calls: how many of them carry gradient, the last ones.
        shown: the "last" call's image, or that of a "random" call, so that every call learns; cheaper.
        keep: old classes, or captions, on which the student is to stay as it is; None: nothing is kept.
        keep_weight: weight of its distance to its old self there, as a mean over calls and pixels.
        adversarial_weight: weight of the adversarial term; 0 leaves the student as it is (a control).
        discriminator_input: what the discriminator sees as real if the denoiser works on latents: "decoded" latents, as
            the fakes are, or the "pixels" of the data.
        objective: adversarial loss; hinge when None.
        penalty: one penalty or several on the discriminator.
    """

    generator: Denoiser
    discriminator: Discriminator | None

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        scheduler: Literal["lcm", "ddim"] | None = None,
        num_calls: int = 4,
        grad_calls: int = 1,
        shown: Literal["last", "random"] = "last",
        keep: list[int] | list[str] | None = None,
        keep_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        discriminator_input: Literal["decoded", "pixels"] = "decoded",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_choice("last", "random", shown=shown)
        check_choice("decoded", "pixels", discriminator_input=discriminator_input)
        check_not_negative(keep_weight=keep_weight, adversarial_weight=adversarial_weight)
        if adversarial_weight == 0 and (keep_weight == 0 or not keep):
            raise ValueError("`adversarial_weight=0.0` and nothing to `keep`: nothing would be trained")
        process = generator.process
        scheduler = scheduler or ("lcm" if isinstance(process, VP) else "ddim")
        if scheduler != "ddim" and (scheduler != "lcm" or isinstance(process, EDM)):
            kind, known = type(process).__name__, "ddim (Euler's method)" if isinstance(process, EDM) else "lcm or ddim"
            raise ValueError(f"`scheduler={scheduler}`: a few-step student of {kind} is sampled by {known}")
        if not 1 <= grad_calls <= num_calls:
            raise ValueError(f"`grad_calls={grad_calls}` must lie between 1 and `num_calls={num_calls}`")
        if generator.slot is not None:
            raise ValueError(
                "a network that is conditioned on a latent z cannot be tuned by adt_turbo: start from another"
            )
        check_single(discriminator)
        check_begins_in_noise(generator)
        super().__init__(generator, discriminator if adversarial_weight > 0 else None)
        self.keep = keep or []
        if self.keep:
            self.check_kept()
        self.old = frozen_copy(generator) if self.keep and keep_weight > 0 else None
        self.sampler, self.sample_steps = scheduler, num_calls
        self.scheduler = process.scheduler(scheduler, generator.prediction)
        set_timesteps(self.scheduler, num_calls)  # can it walk them?
        self.num_calls, self.grad_calls, self.shown = num_calls, grad_calls, shown
        self.keep_weight, self.adversarial_weight = keep_weight, adversarial_weight
        self.discriminator_input = discriminator_input
        self.objective = objective or Hinge()
        self.penalties = penalties_of(penalty)

    def check_kept(self) -> None:
        """Raises ValueError if what is to be kept is not what the network is conditioned on."""
        name, text = type(self.generator.net).__name__, self.generator.text is not None
        if not text and not self.generator.takes_labels:
            raise ValueError(f"`keep={self.keep}`: {name} takes neither classes nor captions; leave it out")
        if any(isinstance(one, str) != text for one in self.keep):
            raise ValueError(f"`keep={self.keep}`: {name} takes {'captions' if text else 'class numbers'}")
        if not text:
            in_turn([int(one) for one in self.keep], self.generator.num_classes, 1, self.generator.device)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """As ever; and refuses to keep the class that means "none", which can be known by now."""
        super().prepare(data, seed)
        known = self.generator.conditioning
        if known.knows_none and known.label is not None and known.null_class in self.keep:
            raise ValueError(f'`keep={self.keep}`: the class {known.null_class} means "none"; leave it out')

    def rollout(self, batch: Batch) -> TurboRollout:
        if self.discriminator is None:
            return TurboRollout()
        number = self.num_calls
        if self.shown == "random":
            number = 1 + batch.draws.one_integer(number)
        set_timesteps(self.scheduler, self.num_calls)  # whose shift may follow the size of the images
        calls = own_calls(self.generator, batch, self.scheduler, num_calls=number, grad_calls=self.grad_calls)
        real, fake = real_and_fake(self.generator, batch, calls[-1].x_0, self.discriminator_input)
        given = Given(labels=batch.labels, t=calls[-1].t, condition=batch.condition)
        return TurboRollout(fake, self.discriminator.views(real, fake, given, batch.draws))

    def discriminator_loss(self, batch: Batch, rollout: TurboRollout) -> Losses:
        assert self.discriminator is not None
        return self.discriminator_terms(self.discriminator, rollout.views, self.objective, self.penalties, batch.draws)

    def generator_loss(self, batch: Batch, rollout: TurboRollout) -> Losses:
        losses: Losses = {}
        if self.discriminator is not None:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.adversarial_weight * adversarial
        if self.old is not None:
            losses["keep"] = lambda: self.keep_weight * self.distance_to_old(batch)
        return losses

    def distance_to_old(self, batch: Batch) -> Tensor:
        """Mean squared distance of the student's images to those of its old self, at its own states.

        As many rows as the batch has, with conditions drawn from `keep`.
        """
        assert self.old is not None
        index = batch.draws.integers(len(self.keep), (len(batch),))
        told = [self.keep[i] for i in index.tolist()]
        given = [str(one) for one in told] if self.generator.text is not None else torch.tensor(told).to(index.device)
        kept = replace(batch, condition=self.generator.condition(given, batch.x_0))
        set_timesteps(self.scheduler, self.num_calls)
        errors = []
        for call in own_calls(self.generator, kept, self.scheduler, stop=True):
            with torch.no_grad():
                before = self.old(call.x, call.t, kept.condition).x0
            errors.append((call.x_0 - before).square().flatten(1).mean(1))
        return torch.stack(errors).mean()
