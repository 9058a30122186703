"""Discriminators that are shown harder images the better they know the real ones: noised, or augmented."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.discriminator import Discriminator, Features, Given, Views
from sparring.discriminators.pixels import PixelDiscriminator
from sparring.objectives import Objective, Scores
from sparring.runs.choice import check_choice

CHAIN = 1000  # steps of the longest chain


class Strength(nn.Module):
    """A number in [0, 1] that rises while `r = mean sign(D(real))` is above a target, and falls below it.

    A discriminator that overfits is sure of every training image, and r goes to 1. After every `every` updates the
    number moves by the real images seen since, over `images`, so that it needs so many to travel all the way. It is in
    every checkpoint with what was seen since it moved. Source: Karras et al. 2020, "Training Generative Adversarial
    Networks with Limited Data" (ADA; arXiv 2006.06676), and Wang et al., "Diffusion-GAN" (arXiv 2206.02262), which
    share it.

    Args:
        start: the number at the start.
        target: of r.
        images: real images in which it goes from 0 to 1; None: it stays.
        every: discriminator updates from one change to the next.

    Raises:
        ValueError: a setting out of range.
    """

    value: Tensor
    seen: Tensor
    updates: Tensor

    def __init__(self, start: float, target: float, images: int | None, every: int = 4) -> None:
        super().__init__()
        if not 0 <= start <= 1 or not -1 <= target <= 1 or (images is not None and images < 1) or every < 1:
            raise ValueError(
                f"`strength={start}`, `target={target}`, `adapt_images={images}`: the strength lies in [0, 1], the "
                "target in [-1, 1], and the images are at least 1"
            )
        self.target, self.images, self.every = target, images, every
        self.register_buffer("value", torch.tensor(start))
        self.register_buffer("seen", torch.zeros(2))  # sum of the signs, and images, since the last change
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.step, self.pending = -1, torch.zeros(2)

    @torch.no_grad()
    def observe(self, logits: Tensor, step: int) -> None:
        """Takes note of the logits [B, ...] of real images; what a step that was not taken has seen is forgotten."""
        signs = logits.sign().float().view(len(logits), -1).mean(1)
        news = torch.stack([signs.sum(), torch.full_like(signs[0], len(signs))])
        self.pending = self.pending + news if step == self.step else news
        self.step = step

    @torch.no_grad()
    def adapt(self, discriminator: Discriminator) -> None:
        """Counts an update of the discriminator, in all of its processes, and moves if that is due."""
        if self.images is None:
            return
        self.seen += discriminator.gather(self.pending[None]).sum(0)
        self.updates += 1
        self.pending = torch.zeros_like(self.pending)
        due = self.updates % self.every == 0
        way = torch.sign(self.seen[0] / self.seen[1].clamp_min(1) - self.target) * self.seen[1] / self.images
        self.value.copy_(torch.where(due, (self.value + way).clamp(0, 1), self.value))
        self.seen *= ~due


class Adaptive(Discriminator):
    """Another discriminator, shown harder images; a subclass says how they are made.

    Args:
        discriminator: the other one, of any kind.
        strength: how much harder; it moves by itself.
    """

    def __init__(self, discriminator: Discriminator, strength: Strength) -> None:
        super().__init__()
        self.needs_reference = discriminator.needs_reference
        self.discriminator = discriminator
        self.strength = strength

    @abstractmethod
    def harder(self, x: Tensor, given: Given, draws: Draws) -> Tensor:
        """Images [B, C, H, W] as the other discriminator sees them, with gradient to x."""

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The other discriminator's, of the harder images."""
        return self.discriminator.features(self.harder(x, given, draws), given, draws)

    def logits(self, features: Features, given: Given) -> Tensor:
        return self.discriminator.logits(features, given)

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        return self.discriminator.scores(candidates, given)

    def check_objective(self, objective: Objective) -> None:
        if self.strength.images is not None and not objective.has_zero:
            raise ValueError(
                f"{type(self).__name__} adapts its strength to the signs of logits, which say nothing with "
                f"{type(objective).__name__}: use NonSaturating or Hinge, or `adapt_images=null`, and it stays"
            )
        self.discriminator.check_objective(objective)

    @property
    def takes_labels(self) -> bool:
        return self.discriminator.takes_labels

    @property
    def num_classes(self) -> int | None:
        return self.discriminator.num_classes

    def field(self, x: Tensor, given: Given) -> dict[str, Tensor]:
        return self.discriminator.field(x, given)

    def losses(self) -> dict[str, Tensor]:
        return self.discriminator.losses()

    def statistics(self, real: Scores, fake: Scores, given: Given, step: int) -> dict[str, Tensor]:
        """Those of the other one, and `strength`; the logits of the real images are noted."""
        self.strength.observe(real.logits, step)
        return self.discriminator.statistics(real, fake, given, step) | {"strength": self.strength.value}

    def after_update(self) -> None:
        """Moves the strength; the other discriminator is called for itself."""
        self.strength.adapt(self)


class Diffused(Adaptive):
    """Any discriminator, shown noised images: `y = sqrt(abar_t) x + sqrt(1 - abar_t) noise_std eps`.

    Half of the images are clean (t = 0) and half have t in 1..T, T = 10 + round(990 strength), from the chain `abar_t =
    prod (1 - beta)`, beta from 1e-4 to 0.02 over 1000 steps. Noised images overlap even if clean ones do not, so the
    generator has a slope to follow everywhere, and T grows as the discriminator gets sure. A real image and the fake of
    its row have the same t (ours), which is handed on as `Given.t` = t / 1000 and may be ignored. Source: Wang et al.,
    "Diffusion-GAN" (arXiv 2206.02262). The official program draws t from a list that it makes anew with every change of
    T, half of it clean; here each row draws for itself.

    Args:
        discriminator: of any kind.
        noise_std: size of the noise (the paper's: 0.05 with StyleGAN2, 0.5 with Projected GAN).
        times: "priority" has t with a probability proportional to t - 1, "uniform" with equal ones.
        strength: at the start; T = 10 at 0.
        target: of `mean sign(D(real))`.
        adapt_images: real images in which T goes from 10 to 1000; None: it stays.

    Raises:
        ValueError: a setting out of range, or `noise_std` not above 0.
    """

    abar: Tensor

    def __init__(
        self,
        *,
        discriminator: Discriminator,
        noise_std: float = 0.05,
        times: Literal["priority", "uniform"] = "priority",
        strength: float = 0.0,
        target: float = 0.6,
        adapt_images: int | None = 500_000,
    ) -> None:
        check_choice("priority", "uniform", times=times)
        if not noise_std > 0:
            raise ValueError(f"`noise_std={noise_std}` must be above 0")
        super().__init__(discriminator, Strength(strength, target, adapt_images))
        self.noise_std, self.times = noise_std, times
        kept = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, CHAIN, dtype=torch.float64), 0)
        self.register_buffer("abar", torch.cat([kept.new_ones(1), kept]).float(), persistent=False)

    @property
    def chain(self) -> Tensor:
        """T, the noisiest step."""
        return 10 + (self.strength.value * (CHAIN - 10)).round()

    def draw_times(self, draws: Draws, n: int) -> Tensor:
        """[n] steps t, half of them 0."""
        last = self.chain
        noised, u = draws.uniform((n,)).to(last) < 0.5, draws.uniform((n,)).to(last)
        if self.times == "uniform":
            t = 1 + (u * last).floor()
        else:  # the smallest t with t (t - 1) > u T (T - 1)
            t = ((1 + (1 + 4 * u * last * (last - 1)).sqrt()) / 2).floor() + 1
        return torch.where(noised, t.minimum(last), 0).long()

    def views(self, real: Tensor, fake: Tensor, given: Given, draws: Draws, reference: Tensor | None = None) -> Views:
        return super().views(real, fake, self.at_times(given, draws, len(real)), draws, reference)

    def forward(self, x: Tensor, given: Given, draws: Draws) -> Tensor:
        return super().forward(x, self.at_times(given, draws, len(x)), draws)

    def at_times(self, given: Given, draws: Draws, n: int) -> Given:
        """What is given, with times t / 1000."""
        if given.t is not None and "t" in getattr(self.discriminator, "given", ()):
            raise ValueError(
                "`Diffused` tells its discriminator t of its own noise, and this method has another t: leave one out"
            )
        return replace(given, t=self.draw_times(draws, n).to(self.abar) / CHAIN)

    def harder(self, x: Tensor, given: Given, draws: Draws) -> Tensor:
        """Images noised to `given.t`, as `views` draws it."""
        if given.t is None:
            raise ValueError("`Diffused` noises images to the times of its `views`")
        abar = self.abar[(given.t * CHAIN).round().long()].to(x).view(-1, *[1] * (x.ndim - 1))
        return abar.sqrt() * x + (1 - abar).sqrt() * self.noise_std * draws.normal(x.shape).to(x)

    def field(self, x: Tensor, given: Given) -> dict[str, Tensor]:
        """That of the other discriminator, of clean points."""
        return super().field(x, replace(given, t=x.new_zeros(len(x))))

    def statistics(self, real: Scores, fake: Scores, given: Given, step: int) -> dict[str, Tensor]:
        return super().statistics(real, fake, given, step) | {"chain": self.chain.float()}


class Augmented(Adaptive):
    """Any discriminator, shown images each of whose augmentations happens with a probability that moves by itself.

    As long as the probability is below 1, a generator that makes augmented images is found out: the augmentations do
    not leak. Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (ADA; arXiv
    2006.06676), with the augmentations of `DiffAugment` in place of its own.

    Args:
        discriminator: of any kind; switch its own `augment` off.
        policy: of `DiffAugment`.
        strength: probability at the start.
        target: of `mean sign(D(real))`.
        adapt_images: real images in which the probability goes from 0 to 1; None: it stays.

    Raises:
        ValueError: a setting out of range, a policy that does nothing, or one that would part images from what the
            discriminator sees beside them.
    """

    def __init__(
        self,
        *,
        discriminator: Discriminator,
        policy: str = "color,translation,cutout",
        strength: float = 0.0,
        target: float = 0.6,
        adapt_images: int | None = 500_000,
    ) -> None:
        super().__init__(discriminator, Strength(strength, target, adapt_images))
        self.augment = DiffAugment(policy=policy)
        if not self.augment.policy:
            raise ValueError(f"`policy={policy!r}` augments nothing: name some of color, translation and cutout")
        if "x_t" in getattr(discriminator, "given", ()):
            raise ValueError(f"`policy={policy!r}` would change the images and not their noisier neighbours `x_t`")
        if isinstance(discriminator, PixelDiscriminator) and self.augment.policy != {"color"}:
            raise ValueError(f"`policy={policy!r}` would move pixels away from their classes: use color")

    def harder(self, x: Tensor, given: Given, draws: Draws) -> Tensor:
        return self.augment(x, draws, self.strength.value)
