"""Visual priors: diffusion on diffusion, a denoiser conditioned on a code of its own last sample (arXiv 2410.08531).

Status: no gain on digits; two stages of ten calls have 1.00, plain training in 20 0.75 (docs/results/sampling.md).

    L = w(t) |x - x_pred(x_t, t, c)|^2,        c = b (tanh e(x) + 0.1 n),        x_t = alpha x + sigma eps

b: 0 for a share of the rows, else 1. Encoder and denoiser learn together, by the denoiser's loss only; the code is so
narrow that it can say what an image is about and not what it is. `sparring sample RUN --with stages` samples without a
code first and once more with the code of that sample. Fake: the one-step prediction; there is no discriminator. Paper,
from its text and reviews: stages, and the narrow embedding of the last sample that conditions the next. Ours: one
network for all stages, codes of true images in training, dropout of 0.3, noise, and a code that is a vector.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, Generator, VisualPrior
from sparring.methods.denoising.diffusion import Diffusion
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, one_step

MEASURED = 200


class VisualPriors(Diffusion):
    """Denoising training with a code of the image.

    Args:
        generator: the denoiser to train, whose own source is a `VisualPrior`.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: a denoiser with another source.
    """

    teaches_source = True

    def __init__(self, generator: Denoiser, *, times: Times | None = None, weighting: Weighting | None = None):
        super().__init__(generator, times=times, weighting=weighting)
        if not isinstance(generator.own_source, VisualPrior):
            raise ValueError("`denoiser.own_source`: visual priors need sparring.generators.VisualPrior")

    def rollout(self, batch: Batch) -> OneStep:
        told = prior_of(self.generator).told(batch.images, batch.draws)
        return one_step(self.generator, replace(batch, condition=told), self.times)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How far second samples are from the first, over how far two first ones are from each other: `copy_index`.

        Near 0 the second stage copies, at 1 the code says nothing. `true_index` is that of codes of real images.
        """
        assert isinstance(generator, Denoiser)
        prior, n = prior_of(generator), min(MEASURED, len(data))

        def sampled(code: Tensor) -> Tensor:
            latents = draws.normal((n, *data.image_shape))
            return generator.generate(
                generator.stepper(self.sampler), self.sample_steps, latents=latents, condition=code
            ).clamp(-1, 1)

        real = data.images(n).to(draws.device)
        first = sampled(prior.forward(draws.normal((n, 1))))
        return {
            "copy_index": index(first, sampled(prior.of_images(first))),
            "true_index": index(real, sampled(prior.of_images(real))),
        }


def index(first: Tensor, second: Tensor) -> float:
    """Mean distance of images [n, C, H, W] in pairs, over that of different ones of the first."""
    far = torch.pdist(first.flatten(1).double()).mean()
    return float((second - first).flatten(1).double().norm(dim=1).mean() / far)


def prior_of(generator: Denoiser) -> VisualPrior:
    """Its own source."""
    prior = generator.own_source
    assert isinstance(prior, VisualPrior)
    return prior
