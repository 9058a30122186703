"""SWYCC: sample what you can't compress, an autoencoder with a diffusion decoder (Birodkar et al., arXiv 2409.02529).

Status: no gain; 21.2 dB, 21.0 of a frozen code; samples at 3.35, plain training 0.71 (docs/results/training.md).

    L = w(t) |x - D_refine(x_t, t, d)|^2 + draft |x - d|^2,    d = D_init(E(x)),    x_t = alpha x + sigma eps

Encoder, first decoder and denoiser are trained together: the code keeps what helps to denoise, the draft d is what can
be told of it at once, and the denoiser, which sees d beside x_t, draws the rest. Fake: the one-step prediction; there
is no discriminator. Paper: the loss, a perceptual term beside it, convolutional networks. Ours: the weight of the
setting, 1 for the draft, no perceptual term, codes with tanh and noise, and samples from the normal law of the codes.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Coder, Denoiser, Generator
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.metrics.pairs import psnr
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, one_step

FITTED, EVERY, MEASURED = 1000, 20, 200  # images for the law of codes, steps between two of its fits, images decoded


@dataclass
class Decoded:
    """The drafts [B, C, H, W] of a batch, and the prediction that sees them."""

    draft: Tensor
    step: OneStep


class SWYCC(Method):
    """Denoising training with a draft whose autoencoder learns, too.

    Args:
        generator: the denoiser to train, whose own source is a `Coder`.
        draft: weight of the draft's squared error per number.
        frozen: the denoiser's loss does not reach the autoencoder, which learns from its own error then: a control.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: a denoiser with another source, or a negative weight.
    """

    generator: Denoiser
    teaches_source = True

    def __init__(
        self,
        generator: Denoiser,
        *,
        draft: float = 1.0,
        frozen: bool = False,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_not_negative(draft=draft)
        super().__init__(generator)
        if not isinstance(generator.own_source, Coder):
            raise ValueError("`denoiser.own_source`: SWYCC needs sparring.generators.Coder, which it trains")
        self.draft, self.frozen = draft, frozen
        self.times = times or generator.process.default_times()
        self.weighting = weighting
        self.images: Tensor | None = None

    def size_for(self, data: ImageData) -> None:
        """Keeps the images whose codes have the law of samples."""
        self.images = data.images(min(len(data), FITTED))

    def rollout(self, batch: Batch) -> Decoded:
        draft = coder_of(self.generator).of_images(batch.images, batch.draws)
        told = replace(batch, condition=draft.detach() if self.frozen else draft)
        return Decoded(draft, one_step(self.generator, told, self.times))

    def generator_loss(self, batch: Batch, rollout: Decoded) -> Losses:
        return {
            "diffusion": denoising_error(self.generator, rollout.step, self.weighting).mean(),
            "draft": self.draft * (rollout.draft - batch.images).square().mean(),
        }

    def after_step(self) -> None:
        if self.images is not None and ((self.step + 1) % EVERY == 0 or self.step + 1 == self.steps):
            coder = coder_of(self.generator)
            coder.fit_law(self.images.to(coder.mean))

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """PSNR in dB of held-out images that were encoded and decoded, and of the drafts on the way.

        `spread` is the root mean square of what two decodings of one code differ by, per number.
        """
        assert isinstance(generator, Denoiser)
        images = held_out(data, draws, MEASURED).images
        draft = coder_of(generator).of_images(images, draws)
        scheduler = generator.stepper(self.sampler)
        first, second = (
            generator.generate(
                scheduler, self.sample_steps, latents=draws.normal(tuple(images.shape)), condition=draft
            ).clamp(-1, 1)
            for _ in range(2)
        )
        return {
            "psnr": float(psnr(first, images).mean()),
            "draft_psnr": float(psnr(draft.clamp(-1, 1), images).mean()),
            "spread": float((first - second).square().mean().sqrt()),
        }


def coder_of(generator: Denoiser) -> Coder:
    """Its own source."""
    coder = generator.own_source
    assert isinstance(coder, Coder)
    return coder
