"""Minority classifier: what minority guidance steers by, don't play favorites (Um et al., arXiv 2301.12334).

Status: no gain; on digits it knows intricate images, not rare ones (docs/results/sampling.md).

Images that denoising destroys are rare. A trained denoiser scores an image by how far it comes back changed,

    l(x_0) = mean over K noises of |x_0 - x_0hat(x_t)|^2 / d        at one low noise level t,

and a classifier of *noised* images learns in which of as many bins of equal counts the score lies, the last one the
rarest, by cross-entropy as in `noisy_classifier`. For data N(0, v) and k = alpha v / (alpha^2 v + sigma^2) the score
is (1 - k alpha)^2 x_0^2 + k^2 sigma^2 a number: it rises with |x_0|. The paper measures by LPIPS and puts its
classifier on features of a pretrained one. Ours are squared error of pixels, a network from scratch, and K fixed
noises, the same for every image so that the score is a function of the image.
"""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Condition, Denoiser, Guide
from sparring.methods.guided import denoiser_of
from sparring.methods.guides.noisy_classifier import NoisyClassifier
from sparring.process import Times

SCORED = 10_000  # images whose scores make the bins, at most


class MinorityClassifier(NoisyClassifier):
    """Cross-entropy of noised images on the bins of a score of rarity.

    Args:
        generator: the classifier, a guide with as many outputs as there are bins.
        denoiser: run or pipeline folder of the denoiser that scores, or the denoiser.
        noises: K, noises by which an image is scored.
        level: time t of the process at which it is scored, in (0, 1].
        times: distribution of the noise level of the classifier; the process's own when None.
    """

    def __init__(
        self,
        generator: Guide,
        denoiser: str | Denoiser,
        *,
        noises: int = 5,
        level: float = 0.06,
        times: Times | None = None,
    ):
        if noises < 1 or not 0 < level <= 1:
            raise ValueError(f"`noises={noises}` must be at least 1, and `level={level}` lie in (0, 1]")
        super().__init__(generator, times=times)
        self.denoiser = denoiser_of(generator, denoiser)
        if self.denoiser.space is not None or self.denoiser.captioned:
            raise ValueError("`denoiser`: guides see pixels, and this one diffuses latents or takes captions")
        self.level = level
        self.noises = noises
        self.eps = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self.edges = torch.nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def beside(self) -> Denoiser:
        return self.denoiser

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        n = min(len(data), SCORED)
        device = self.eps.device
        self.eps.data = Draws(seed, phase="scores", device=device).normal((self.noises, *data.image_shape))
        images, labels = data.images(n, seed), data.labels(n, seed)
        parts = [slice(first, first + 256) for first in range(0, n, 256)]
        told = [None if labels is None else labels[rows].to(device) for rows in parts]
        scores = torch.cat([self.score(images[rows].to(device), c) for rows, c in zip(parts, told, strict=True)])
        shares = torch.linspace(0, 1, self.generator.outputs + 1, dtype=scores.dtype, device=device)[1:-1]
        self.edges.data = scores.quantile(shares)

    @torch.no_grad()
    def score(self, images: Tensor, labels: Condition = None) -> Tensor:
        """l [B] of images [B, C, H, W], of their classes [B] for a denoiser that takes some."""
        t = torch.full((len(images),), self.level, dtype=images.dtype, device=images.device)
        process, labels = self.denoiser.process, labels if self.denoiser.takes_labels else None
        errors = [
            (self.denoiser(process.add_noise(images, eps.to(images).expand_as(images), t), t, labels).x0 - images)
            .square()
            .flatten(1)
            .mean(1)
            for eps in self.eps
        ]
        return torch.stack(errors).mean(0)

    def classes(self, batch: Batch) -> Tensor:
        """[B] bins, 0 the commonest."""
        if not len(self.edges):
            raise ValueError("nothing is scored yet: call `prepare(data)` before the first step")
        return torch.bucketize(self.score(batch.images, batch.labels), self.edges.to(batch.images.dtype))
