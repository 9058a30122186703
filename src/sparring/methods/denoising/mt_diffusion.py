"""MT-Diffusion: joint diffusion of an image and its label with one backbone (arXiv 2407.17571).

Status: proven with a pattern of 0.5 (0.525, without labels 0.79); with one of 0.2 no gain of three seeds (0.59)
(docs/results/training.md).

    z_0 = x + a E_y,    z_t = alpha z_0 + sigma eps,    L = w(t) |x - x_pred(z_t)|^2 + c CE(y, logits(z_t))

Both modalities are brought into one space, noised there together, denoised by one network and read by a head for each.
Fake: the one-step prediction; there is no discriminator. Paper, from its abstract and reviews: the common space, one
backbone, heads, a loss with a term for each. Ours: E_y are fixed patterns of +1 and -1, a = 0.2, c = 0.1, the head in
the middle of a U-Net, and the expected pattern is taken off a finished sample.
"""

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Generator, JointDenoiser, Prediction
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.metrics.codes import linear_probe
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, noise_at

MEASURED, SEEN = 500, 2000  # images that are drawn and classified, and training images of the classifier beside it


@dataclass
class Read:
    """The prediction of an image and the logits [B, K] of its label, of one noisy batch."""

    step: OneStep
    logits: Tensor


class MTDiffusion(Method):
    """Denoising training of images together with their labels.

    Args:
        generator: the denoiser of both.
        label: weight c of the label's cross-entropy.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: 1.
    """

    generator: JointDenoiser

    def __init__(
        self,
        generator: JointDenoiser,
        *,
        label: float = 0.1,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_not_negative(label=label)
        super().__init__(generator)
        self.label = label
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def rollout(self, batch: Batch) -> Read:
        process = self.generator.process
        noised = noise_at(process, batch, self.times)
        image, logits = self.generator.heads(noised.x_t, noised.t)
        prediction = Prediction(image, noised.x_t, noised.t, "x0", process)
        return Read(OneStep(replace(noised, x_0=batch.images), prediction), logits)

    def generator_loss(self, batch: Batch, rollout: Read) -> Losses:
        assert batch.labels is not None
        self.log(label_accuracy=(rollout.logits.argmax(1) == batch.labels).float().mean())
        return {
            "diffusion": denoising_error(self.generator, rollout.step, self.weighting).mean(),
            "label": self.label * F.cross_entropy(rollout.logits, batch.labels),
        }

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Whether labels belong to their images, for samples and for held-out images.

        `agreement` is the share of samples whose label is that of a linear classifier of pixels, which is right on
        `probe` of the held-out images; `accuracy` is the share of these that the denoiser classifies correctly.
        """
        assert isinstance(generator, JointDenoiser)
        held = held_out(data, draws, MEASURED)
        seen = min(len(data), SEEN)
        train, labels = data.images(seen).flatten(1).to(draws.device), data.labels(seen)
        assert labels is not None
        assert held.labels is not None
        eps = draws.normal(tuple(held.images.shape))
        z_0 = generator.generate(generator.stepper(self.sampler), self.sample_steps, latents=eps)
        drawn = generator.labels_of(z_0)
        return {
            "agreement": linear_probe(train, labels.to(train.device), generator.decode(z_0).flatten(1), drawn),
            "probe": linear_probe(train, labels.to(train.device), held.images.flatten(1), held.labels),
            "accuracy": float((generator.classified(held.images, eps) == held.labels).float().mean()),
        }
