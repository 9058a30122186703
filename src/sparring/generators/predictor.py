"""What predicts at a level of a sampler, and what can be laid around it: guidance, sums of models, replaced estimates.

A predictor is called as `predict(x_t, level, condition)` and gives a `Prediction`; a denoiser's own is
`Denoiser.predict`. Everything that touches the outputs of networks is a predictor around a predictor.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sparring.generators.condition import Condition, concatenate
from sparring.generators.level import Level
from sparring.generators.prediction import Prediction

if TYPE_CHECKING:
    from sparring.generators.denoiser import Denoiser

Predictor = Callable[[Tensor, Level, Condition], Prediction]
"""Noisy images [B, C, H, W], where they stand, and what they are conditioned on. Rows never see each other."""

PLACES = ("call", "mix", "edit", "gradient")


class Intervention:
    """What is added to a plain sampler; one object serves any number of walks.

    At strength zero, and outside of its levels, it returns the inner prediction unchanged, so that the samples are
    those of the plain sampler bit for bit.

    Attributes:
        place: how far outside it is laid, innermost first: "call" (how one network is called), "mix" (several outputs
            into one), "edit" (the clean estimate replaced), "gradient" (of a number, added to the score).
    """

    place: Literal["call", "mix", "edit", "gradient"]

    def check(self, denoiser: "Denoiser") -> None:
        """Raises ValueError if it cannot be added to this denoiser."""

    def wrap(self, inner: Predictor, denoiser: "Denoiser") -> Predictor:
        """A predictor around `inner`, for one walk: what it keeps from call to call begins anew."""
        return inner


def wrapped(denoiser: "Denoiser", using: Sequence[Intervention]) -> Predictor:
    """The denoiser's predictor with everything around it, for one walk."""
    predict: Predictor = denoiser.predict
    for intervention in sorted(using, key=lambda one: PLACES.index(one.place)):
        predict = intervention.wrap(predict, denoiser)
    return predict


class ClassifierFree(Intervention):
    """Classifier-free guidance: none + weight (told - none), on the network's own output (Ho and Salimans, 2207.12598).

    `told` is the output with the condition, `none` that without. Both come from one pass over a joined batch; if
    gradients are on, it passes to `told` only (our choice), and `none` has a pass of its own without a graph, which
    halves the memory of the step.

    Args:
        weight: 1 is no guidance, and costs one call.
        interval: guidance acts if sigma / alpha lies above the first and not above the second number (Kynkäänniemi et
            al., arXiv 2404.07724, for EDM's sigma); None: always.
    """

    place = "mix"

    def __init__(self, weight: float, interval: tuple[float, float] | None = None):
        if interval is not None and not 0 <= interval[0] < interval[1]:
            raise ValueError(f"`guidance_interval={interval}` must be two noise levels, 0 <= low < high")
        self.weight = weight
        self.interval = interval

    def wrap(self, inner: Predictor, denoiser: "Denoiser") -> Predictor:
        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            low, high = self.interval or (None, None)
            if low is not None and high is not None and not low < level.noise_to_signal <= high:
                return inner(x_t, level, condition)
            none, told = none_and_told(inner, denoiser, x_t, level, condition)
            return replace(told, output=none.output + self.weight * (told.output - none.output))

        return inner if self.weight == 1 else guided


def none_and_told(
    inner: Predictor, denoiser: "Denoiser", x_t: Tensor, level: Level, condition: Condition
) -> tuple[Prediction, Prediction]:
    """Predictions without and with the condition; see `ClassifierFree`."""
    unconditional = denoiser.unconditional(condition)
    if torch.is_grad_enabled():
        told = inner(x_t, level, condition)
        with torch.no_grad():
            return inner(x_t, level, unconditional), told
    both = inner(torch.cat([x_t, x_t]), level, concatenate(unconditional, condition))
    return both.rows(slice(0, len(x_t))), both.rows(slice(len(x_t), None))
