"""InvDiff: invariant guidance for bias mitigation in diffusion models (arXiv 2412.08480).

Status: no gain; its groups are not the planted ones; known groups grow from 0.035 to 0.19 (docs/results/sampling.md).

A small network, trained by `sparring fit inv_diff_delta --init RUN` so that hidden groups of images are denoised
equally well, is added to the frozen denoiser,

    out = base(x_t, t) + w delta(x_t, t),

on raw outputs of one kind. The official code has this form beside `r delta + (1 - r) base`, which with a delta of zero
is not the base. w is ours; 1 is what it was trained for.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sparring.generators import Condition, Denoiser, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.loading import opened
from sparring.generators.predictor import Intervention, Predictor
from sparring.samplers.denoisers import check_beside
from sparring.samplers.trained import check_trained_beside, check_trained_by


class InvDiff(Intervention):
    """The sampled model and what was trained to be added to it.

    Args:
        delta: run of `sparring fit inv_diff_delta`, or the denoiser.
        weight: w; 0 is none, and costs no call.
        allow: further packages whose networks the folder may name.
    """

    place = "call"

    def __init__(self, delta: str | Denoiser, *, weight: float = 1.0, allow: Sequence[str] = ()):
        self.delta = delta
        self.weight = weight
        check_trained_by(delta, "delta", ("inv_diff_delta",))
        self.model = opened(delta, allow).eval()

    @property
    def cost(self) -> int:
        return self.model.images_seen

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_beside(self.model, denoiser, "delta")
        if self.model.prediction != denoiser.prediction:
            raise ValueError(f"`delta` is of {self.model.prediction}, and the model predicts {denoiser.prediction}")
        check_trained_beside(self.delta, "delta", denoiser)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def added(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            base = inner(x_t, level, condition)
            return replace(base, output=base.output + self.weight * self.model.predict(x_t, level, condition).output)

        return inner if self.weight == 0 else added
