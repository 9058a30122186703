"""What predicts at a level of a sampler, and what can be laid around it: guidance, sums of models, replaced estimates.

A predictor is called as `predict(x_t, level, condition)` and gives a `Prediction`; a denoiser's own is
`DenoisingNetwork.predict`. Everything that touches the outputs of networks is a predictor around a predictor.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators.condition import Condition, concatenate
from sparring.generators.denoising_network import DenoisingNetwork
from sparring.generators.level import Level, Predictor
from sparring.generators.prediction import Prediction
from sparring.runs.classes import is_plain

PLACES = ("call", "mix", "edit", "gradient")


class Intervention:
    """What is added to a plain sampler; one object serves any number of walks.

    At strength zero, and outside of its levels, it returns the inner prediction unchanged, so that the samples are
    those of the plain sampler bit for bit.

    Attributes:
        place: how far outside it is laid, innermost first: "call" (how one network is called), "mix" (several outputs
            into one), "edit" (the clean estimate replaced), "gradient" (of a number, added to the score).
        moves: it edits the state at a level (`move`), which multistep schedulers do not allow.
        needs_none: it asks the network without the condition, or stands for that, so that no image may be of the class
            that says "none", and no other guides by the condition.
        of_latents: it says of which latents a generator of one call makes its images (`noise`).
        enlarges: images come out so many times as wide and as high as those of the network.
        times: t of the process, falling, for each step of the sampler; none: those of the scheduler.
    """

    place: Literal["call", "mix", "edit", "gradient"] = "call"
    needs_none: bool = False
    moves: bool = False
    of_latents: bool = False
    enlarges: int = 1
    times: Sequence[float] = ()

    @property
    def label(self) -> str:
        """What it is called in tables: its name, and the settings that are not the default ones.

        Of a folder its own name and that of where it lies, which keeps runs of one name in two places apart.
        """
        module = type(self).__module__
        name = module.rpartition(".")[2] if module.startswith("sparring.samplers.") else type(self).__name__
        parameters = signature(type(self)).parameters.items()
        known = {name: (vars(self)[name], one.default) for name, one in parameters if name in vars(self)}
        chosen = {name: value for name, (value, default) in known.items() if value != default and is_plain(value)}
        said = {
            name: "/".join(Path(value).parts[-2:]) if isinstance(value, str) else value
            for name, value in chosen.items()
        }
        given = [f"{name}={value}" for name, value in said.items()]
        return f"{name}({', '.join(given)})" if given else name

    @property
    def num_classes(self) -> int | None:
        """How many classes it guides by, for a denoiser that takes none itself; None: it needs no class."""
        return None

    def noise(self, generator: Any, n: int, seed: int, labels: Tensor | None, size: int) -> Tensor:
        """Normal numbers [n, noise_dim] of which a generator of one call makes its images; if `of_latents`.

        Args:
            generator: what is sampled, a `LatentGenerator`, on its device.
            n: number of images.
            seed: of the latents of the plain sampler.
            labels: classes [n]; None if it takes none.
            size: images at once.

        Raises:
            ValueError: it cannot be added to this generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to do with latents")

    @property
    def cost(self) -> int:
        """Images that passed through networks of its own so far; one that goes back through a network counts two."""
        return 0

    def check(self, denoiser: DenoisingNetwork) -> None:
        """Raises ValueError if it cannot be added to this denoiser."""

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        """A predictor around `inner`, for one walk: what it keeps from call to call begins anew."""
        return inner

    def move(
        self,
        x_t: Tensor,
        level: Level,
        condition: Condition,
        predict: Predictor,
        denoiser: DenoisingNetwork,
        draws: Draws,
    ) -> Tensor:
        """The state [B, C, H, W] at its level, edited before the network of this step sees it.

        Args:
            x_t: the state, in the coordinates of the process.
            level: where it stands.
            condition: of the rows.
            predict: the predictor with everything that is laid around it.
            denoiser: what is sampled.
            draws: random numbers for these rows.
        """
        return x_t

    def finish(self, x_0: Tensor, again: "Again", denoiser: DenoisingNetwork) -> Tensor:
        """What becomes of finished images [B, C, H, W] at the end of a walk; by default nothing.

        Args:
            x_0: the images.
            again: walks anew, from noised images.
            denoiser: what is sampled.
        """
        return x_0

    def measures(self, images: Tensor) -> dict[str, Tensor]:
        """How far each of the images [n, C, H, W] in [-1, 1] is what it asks for, numbers [n] by name; often none.

        What an evaluation shows beside the distance: it is taken of the images, without the networks that guide.
        """
        return {}


Again = Callable[[Tensor, float, Sequence[Intervention]], Tensor]
"""Noises images [B, C, H, W] and walks the last steps of the sampler from there: the images, the share of the steps in
(0, 1] (rounded up), and what is added to all that is laid around the denoiser."""


def wrapped(denoiser: DenoisingNetwork, using: Sequence[Intervention]) -> Predictor:
    """The denoiser's predictor with everything around it, for one walk."""
    predict: Predictor = denoiser.predict
    for intervention in sorted(using, key=lambda one: PLACES.index(one.place)):
        predict = intervention.wrap(predict, denoiser)
    return predict


def times_of(using: Sequence[Intervention]) -> Sequence[float]:
    """The levels that one of them has chosen; none: those of the scheduler.

    Raises:
        ValueError: several have.
    """
    chosen = [one for one in using if one.times]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(one.label for one in chosen)} both choose the levels: take one")
    return chosen[0].times if chosen else ()


SINGLE_STEP = (
    *("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    *("HeunDiscreteScheduler", "EDMEulerScheduler", "EDMHeunScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
)
"""Schedulers that keep nothing of the steps before, so that the state may be edited between steps."""


def check_moves(using: Sequence[Intervention], scheduler: object) -> None:
    """Raises ValueError if something edits the state of a scheduler that keeps outputs of another state."""
    kind = type(scheduler).__name__
    moving = [one.label for one in using if one.moves]
    if moving and kind not in SINGLE_STEP:
        raise ValueError(
            f"{moving[0]} edits the state, and {kind} keeps outputs of the steps before: take scheduler ddim, euler, "
            "heun or ddpm"
        )


class ClassifierFree(Intervention):
    """Classifier-free guidance: none + weight (told - none), on the network's own output (Ho and Salimans, 2207.12598).

    `told` is the output with the condition, `none` that without. Both come from one pass over a joined batch. In
    training, gradient passes to `told` only (our choice), and `none` has a pass of its own without a graph, which
    halves the memory of the step; the gradient of x_t, of a guide through the denoiser, is that of both. The pipelines
    of Qwen-Image and Lumina 2 then give the result the norm of `told`.

    Args:
        weight: 1 is no guidance, and costs one call.
        interval: guidance acts if sigma / alpha lies in (low, high] (Kynkäänniemi et al., arXiv 2404.07724, for EDM's
            sigma); None: always.
    """

    place = "mix"
    needs_none = True

    def __init__(self, weight: float, interval: tuple[float, float] | None = None):
        self.weight = weight
        self.interval = check_interval(interval)

    @property
    def label(self) -> str:
        if type(self) is not ClassifierFree:
            return super().label
        low, high = self.interval or (None, None)
        return f"guidance={self.weight:g}" + ("" if low is None or high is None else f"({low:g}-{high:g})")

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        mix = self.mix()

        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            if not within(self.interval, level):
                return inner(x_t, level, condition)
            none, told = none_and_told(inner, denoiser, x_t, level, condition)
            return self.finished(denoiser, mix(none, told), told)

        return inner if self.weight == 1 else guided

    def mix(self) -> Callable[[Prediction, Prediction], Prediction]:
        """From predictions without and with the condition to the guided one, for one walk."""
        return self.linear

    def finished(self, denoiser: DenoisingNetwork, guided: Prediction, told: Prediction) -> Prediction:
        """The guided prediction, renormed if this is the plain guidance of a pipeline that does so."""
        if denoiser.text is None or type(self) is not ClassifierFree:
            return guided
        return replace(guided, output=denoiser.text.renormed(guided.output, told.output))

    def linear(self, none: Prediction, told: Prediction) -> Prediction:
        return replace(told, output=none.output + self.weight * (told.output - none.output))


Interval = tuple[float, float]
"""Noise levels sigma / alpha, (low, high]: above the first and not above the second."""


def check_interval(interval: Interval | None, name: str = "interval") -> Interval | None:
    """The interval; raises ValueError if it holds no level."""
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"`{name}={interval}` must be two noise levels, 0 <= low < high")
    return interval


def within(interval: Interval | None, level: Level) -> bool:
    """Whether a level lies in the interval; None holds every level."""
    return interval is None or interval[0] < level.noise_to_signal <= interval[1]


def none_and_told(
    inner: Predictor, denoiser: DenoisingNetwork, x_t: Tensor, level: Level, condition: Condition
) -> tuple[Prediction, Prediction]:
    """Predictions without and with the condition; see `ClassifierFree`."""
    unconditional = denoiser.unconditional(condition)
    if torch.is_grad_enabled() and not x_t.requires_grad:
        told = inner(x_t, level, condition)
        with torch.no_grad():
            return inner(x_t, level, unconditional), told
    both = inner(torch.cat([x_t, x_t]), level, concatenate(unconditional, condition))
    return both.rows(slice(0, len(x_t))), both.rows(slice(len(x_t), None))
