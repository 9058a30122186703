"""InvDiff delta: what invariant guidance adds, for bias mitigation in diffusion models (arXiv 2412.08480).

Status: no gain; its groups are not the planted ones; known groups grow from 0.035 to 0.19 (docs/results/sampling.md).

A trained denoiser does worse on some images than on others. Groups W are those whose mean losses m_g differ most; a
small network is added to the frozen denoiser, so that they become equal:

    W = argmax std_g m_g,        out = base(x_t, t) + delta(x_t, t),        L = mean_g m_g + lambda var_g m_g

`sparring sample RUN --with inv_diff` adds it. There is no fake and no discriminator. Groups and loss are the official
code's, and delta starts at zero, by its last layer. Ours: the loss of an image is its denoising error at 16 stratified
times with noises that all images share; groups of a tenth of the images at least; the gradient of the variance is taken
at the losses of the base, a factor for each image, so that rows do not see each other; and if the base is sampled with
guidance, both networks go without a condition for the same share of rows, since guidance asks their sum that way, too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.data.waiting import counted, told
from sparring.generators import Condition, Denoiser
from sparring.methods.guided import denoiser_of
from sparring.methods.method import Losses, Method
from sparring.objectives.groups import group_means, groups_by_loss, row_factors
from sparring.process import Times
from sparring.rollout import noise
from sparring.runs.choice import check_choice

AT_ONCE = 256


@dataclass
class Sum:
    """Squared errors [B] of base and delta together, and of the base."""

    both: Tensor
    base: Tensor


class InvDiffDelta(Method):
    """Trains what is added to a frozen denoiser, towards equal losses of hidden groups.

    Args:
        generator: delta, a denoiser from scratch that predicts what the base does, with some `condition_dropout` if
            both take classes and one says "none".
        denoiser: run or pipeline folder of the base, or the denoiser.
        groups: G; of labels there are as many as classes.
        variance_weight: lambda; 0 with one group is ordinary training of delta.
        noises: at which the loss of an image is measured before the first step.
        grouping: images are grouped by their losses, at random (a control) or by their labels (known groups).
        times: distribution of the noise level; the process's own when None.

    Raises:
        ValueError: a number that is too small; a base of latents or captions, or of another prediction. In `size_for`,
            classes of delta that the base does not have, or that guidance of the base could not leave out.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        denoiser: str | Denoiser,
        *,
        groups: int = 8,
        variance_weight: float = 1.0,
        noises: int = 16,
        grouping: Literal["losses", "random", "labels"] = "losses",
        times: Times | None = None,
    ):
        if min(groups, noises) < 1 or variance_weight < 0:
            raise ValueError(
                f"`groups={groups}` and `noises={noises}` must be at least 1, `variance_weight={variance_weight}` 0 or "
                "more"
            )
        check_choice("losses", "random", "labels", grouping=grouping)
        super().__init__(generator)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None or self.denoiser.captioned:
            raise ValueError("`denoiser`: delta is added in pixels, and this one diffuses latents or takes captions")
        if self.denoiser.prediction != generator.prediction:
            raise ValueError(f"`denoiser` predicts {self.denoiser.prediction}, and delta {generator.prediction}")
        start_at_zero(generator.net)
        self.groups = groups
        self.variance_weight = variance_weight
        self.noises = noises
        self.grouping = grouping
        self.times = times or generator.process.default_times()
        self.factors = nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def beside(self) -> Denoiser:
        return self.denoiser

    def size_for(self, data: ImageData) -> None:
        if self.grouping == "labels" and data.num_classes is None:
            raise ValueError(f"`grouping=labels`: {data.name} has no labels")
        delta, base = self.generator, self.denoiser
        base.check_condition(data)
        if delta.takes_labels and not base.takes_labels:
            raise ValueError("`denoiser` takes no classes, and delta does: build delta's network without classes")
        if delta.takes_labels and base.takes_guidance:
            if not delta.takes_guidance or delta.null_class != base.null_class:
                raise ValueError(
                    f'class {base.null_class} says "none" to `denoiser`: build delta\'s network with as many classes'
                )
            if delta.condition_dropout == 0:
                raise ValueError(
                    "the base can be sampled with guidance, which asks delta without a class, too: "
                    "`denoiser.condition_dropout` must be above 0 (0.1)"
                )
        self.factors.data = torch.ones(len(data), device=self.factors.device)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        losses = self.losses(data, Draws(seed, phase="losses", device=self.factors.device))
        if self.grouping == "losses":
            weights = groups_by_loss(losses, self.groups, seed=seed)
        else:
            drawn = torch.randint(self.groups, losses.shape, generator=torch.Generator().manual_seed(seed))
            given = drawn if self.grouping == "random" else data.labels()
            assert given is not None
            weights = nn.functional.one_hot(given).double().to(losses.device)
        means = group_means(losses, weights)
        factors = row_factors(losses / means.mean(), weights, self.variance_weight).clamp(min=0)
        self.factors.data = (factors / factors.mean()).to(self.factors.dtype)

    @torch.no_grad()
    def losses(self, data: ImageData, draws: Draws) -> Tensor:
        """The base's denoising error [n] of each image, float64, at times in the middle of equal parts."""
        eps = draws.normal((self.noises, *data.image_shape))
        found = []
        firsts = range(0, len(data), AT_ONCE)
        for first in told(firsts, f"measuring the losses of {counted(len(data), 'image')}", len(firsts)):
            images, labels = data[list(range(first, min(first + AT_ONCE, len(data))))]
            batch = Batch.of(images.to(eps.device), labels, draws)
            errors = torch.zeros(len(batch), dtype=torch.float64, device=eps.device)
            for number, one in enumerate(eps):
                t = torch.full((len(batch),), (number + 0.5) / self.noises, device=eps.device)
                same = one.expand_as(batch.images)
                x_t = self.denoiser.process.add_noise(batch.images, same, t)
                output = self.denoiser(x_t, t, self.told(batch.condition))
                errors += self.denoiser.output_error(output, batch.images, same).double() / self.noises
            found.append(errors)
        return torch.cat(found)

    def told(self, given: Condition) -> Condition:
        """What the base is conditioned on."""
        return given if self.denoiser.takes_labels else None

    def rollout(self, batch: Batch) -> Sum:
        noised = noise(self.generator.process, batch, self.times(self.generator.process, batch.draws, len(batch)))
        drops = self.generator.takes_labels and self.denoiser.takes_guidance
        given = self.generator.condition_with_dropout(batch) if drops else batch.condition
        with torch.no_grad():
            base = self.denoiser(noised.x_t, noised.t, self.told(given)).output
        delta = self.generator(noised.x_t, noised.t, given)
        target = self.generator.target(noised.x_0, noised.eps, noised.t)
        both, alone = ((output - target).square().flatten(1).mean(1) for output in (base + delta.output, base))
        return Sum(both, alone)

    def generator_loss(self, batch: Batch, rollout: Sum) -> Losses:
        if batch.index is None or not len(self.factors):
            raise ValueError("InvDiff weighs each image by its group: it needs the rows of the data set and `prepare`")
        factors = self.factors[batch.index].to(rollout.both)
        self.log(
            gain=(rollout.base - rollout.both).mean(),
            gain_of_the_worst=(factors * (rollout.base - rollout.both)).mean(),
        )
        return {"invariant": (factors * rollout.both).mean()}


def start_at_zero(net: nn.Module) -> None:
    """Sets the last layer of a network of diffusers to zero, so that its output is zero and its gradient is not.

    Raises:
        ValueError: another network, whose last layer is not known.
    """
    last = [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    if not last or not type(net).__module__.startswith("diffusers."):
        raise ValueError(f"`generator.net`: the last layer of {type(net).__name__} is not known; take a UNet2DModel")
    for parameter in last[-1].parameters():
        nn.init.zeros_(parameter)
