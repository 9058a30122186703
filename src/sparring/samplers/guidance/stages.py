"""Stages: diffusion on diffusion, which samples again with a code of its last sample (arXiv 2410.08531).

Status: no gain on digits over plain training of equal calls (docs/results/sampling.md).

A denoiser of `sparring fit visual_priors` samples without a code, and once more from new noise with the code of that
image, as often as there are stages:

    x^(1) = sample(noise, 0),        x^(k) = sample(new noise, e(x^(k-1)))

The denoiser, its encoder and the noise schedule are those of training; see there for what is the paper's. That the last
image is noised to the first level of the scheduler, and not replaced by pure noise, is ours: at the first levels of the
processes here next to nothing is left of it.
"""

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction, VisualPrior
from sparring.generators.level import Level
from sparring.generators.predictor import Again, Intervention, Predictor


class Stages(Intervention):
    """Samples that are conditioned on the last ones.

    Args:
        stages: how often it samples; 1 is the plain sampler.
    """

    def __init__(self, *, stages: int = 2):
        if stages < 1:
            raise ValueError(f"`stages={stages}` must be at least 1")
        self.stages = stages

    def check(self, denoiser: DenoisingNetwork) -> None:
        if not isinstance(denoiser.own_source, VisualPrior):
            raise ValueError("stages need a denoiser that takes codes of images: train one with `fit visual_priors`")

    def finish(self, x_0: Tensor, again: Again, denoiser: DenoisingNetwork) -> Tensor:
        for _ in range(self.stages - 1):
            x_0 = again(x_0, 1.0, [Told(denoiser.own_source.of_images(x_0.clamp(-1, 1)))])
        return x_0


class Told(Intervention):
    """Everything within gets codes [B, code] in place of the condition, so that a guide's model sees them, too."""

    place = "gradient"

    def __init__(self, codes: Tensor):
        self.codes = codes

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def told(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            return inner(x_t, level, self.codes)

        return told
