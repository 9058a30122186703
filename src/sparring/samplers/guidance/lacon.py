"""LaCon: late-constraint diffusion for steerable guided image synthesis (arXiv 2305.11520).

Status: proven; on digits it steers as far as its weight says, and the default breaks them (docs/results/sampling.md).

A small network, trained by `sparring fit lacon_aligner`, reads a silhouette off the features of the denoiser itself.
The gradient of its error steers the first part of the way, with a step as long as the noise estimate is off:

    e = mean |m - a(h(x_t, t), t)|^2,    g = grad_{x_t} e,    eps' = eps + w |eps - x_t| / |g| g        for t > until

through aligner and denoiser. The step does not fade when the error does, so it ends at `until`. Both norms are those of
a row; in the official code they run over the batch. One silhouette for all images, gradients that begin only where
there is some signal (sigma / alpha of 20), and x_t at the scale that it has for VP, whatever the process, are ours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide, Prediction
from sparring.generators.level import Level
from sparring.generators.prediction import SMALLEST
from sparring.generators.predictor import Predictor, within
from sparring.networks.block_taps import BlockTaps, in_one_map
from sparring.process import per_image
from sparring.samplers.gradients import ACTS_IN, GuidedByGradient, check_guide, gradient_of
from sparring.samplers.trained import check_trained_beside

HALVES = ("left", "right", "upper", "lower")


class LaCon(GuidedByGradient):
    """Towards a silhouette.

    Args:
        aligner: run of `sparring fit lacon_aligner`, or the guide itself.
        target: picture of the silhouette, white on black, scaled to the images; or left, right, upper or lower, for
            that half of the image.
        weight: w; 0 is none, and costs no call.
        until: time t of the process, in [0, 1], at which steering ends.
        allow: further packages whose networks the folder may name.
    """

    trained_by = ("lacon_aligner",)

    def __init__(
        self, aligner: str | Guide, *, target: str, weight: float = 2.0, until: float = 0.5, allow: Sequence[str] = ()
    ):
        if not 0 <= until <= 1:
            raise ValueError(f"`until={until}` must lie in [0, 1]")
        super().__init__(aligner, "aligner", weight, ACTS_IN, allow)
        self.aligner = aligner
        self.target = target
        self.until = until
        self.mask = mask_of(target, (self.guide.image_shape[1], self.guide.image_shape[2]))

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_guide(self.guide, denoiser, self.name, BlockTaps(denoiser.net).channels)
        check_trained_beside(self.aligner, self.name, denoiser)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        taps = BlockTaps(denoiser.net)

        def steered(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            plain = inner(x_t, level, condition)
            if not within(self.interval, level) or level.t <= self.until:
                return plain
            self.backward_rows += 2 * len(x_t)  # through aligner and denoiser
            gradient = gradient_of(lambda x: self.error(denoiser, taps, x, level, condition), x_t)
            return plain.shifted(x0=-step(plain, gradient, level, self.weight))

        return inner if self.weight == 0 else steered

    def measures(self, images: Tensor) -> dict[str, Tensor]:
        """Share of an image's ink, what is brighter than black, that lies in the silhouette."""
        ink = (images.mean(1) + 1).clamp(min=0)
        inside = (ink * self.mask.to(ink)).flatten(1).sum(1)
        return {"ink inside": inside / ink.flatten(1).sum(1).clamp(min=SMALLEST)}

    def error(
        self, denoiser: DenoisingNetwork, taps: BlockTaps, x_t: Tensor, level: Level, condition: Condition
    ) -> Tensor:
        """Mean squared error [B] of what the aligner sees in the features of x_t [B, C, H, W]."""
        with taps.listening() as features:
            denoiser.predict(x_t, level, condition)
        seen = self.guide(in_one_map(features, (x_t.shape[-2], x_t.shape[-1])), level.times(len(x_t)))
        return (seen - self.mask.to(seen).flatten()).square().mean(1)


def step(plain: Prediction, gradient: Tensor, level: Level, weight: float) -> Tensor:
    """How far the clean estimate goes back [B, C, H, W] if eps grows by weight |eps - x_t| / |g| g, norms of a row.

    x_t is divided by sqrt(alpha^2 + sigma^2), which is 1 for VP: the step is the same for every process.
    """
    scale = float((level.alpha.square() + level.sigma.square()).sqrt())
    length = (plain.eps - plain.x_t / scale).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    factor = weight * length * (level.sigma / level.alpha.clamp(min=SMALLEST)).to(length)
    return per_image(factor, gradient) * gradient


def mask_of(target: str, size: tuple[int, int]) -> Tensor:
    """The silhouette [H, W] of 0 and 1 that a word or a picture stands for.

    Raises:
        ValueError: neither of them.
    """
    height, width = size
    if target in HALVES:
        mask = torch.zeros(size)
        rows = {"upper": slice(height // 2), "lower": slice(height - height // 2, height)}.get(target, slice(height))
        columns = {"left": slice(width // 2), "right": slice(width - width // 2, width)}.get(target, slice(width))
        mask[rows, columns] = 1.0
        return mask
    try:
        with Image.open(target) as picture:
            pixels = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX))
    except OSError:
        raise ValueError(f"`target={target}` is no picture: give a file, or {', '.join(HALVES)}") from None
    return torch.from_numpy(pixels > 127).float()
