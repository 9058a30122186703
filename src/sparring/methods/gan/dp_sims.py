"""DP-SIMS: semantic image synthesis against a frozen backbone with a pixel decoder (Berrada et al., arXiv 2312.13314).

Status: proven; maps kept to 0.99 (one decision for an image: 0.95), spread 0.26 and not 0.03 (docs/results/gans.md).

    L_D = -mean a_t log p_t(x) - mean log p_fake(G(z, t)),        p = softmax of K + 1 logits of each pixel
    L_G = -mean a_t log p_t(G(z, t)) + diversity mean exp(-|G(z, t) - G(z', t)| / |z - z'|),        a_c = N / (K N_c)

The generator makes an image of a label map t, and the discriminator says of each pixel which class it shows, or that it
is fake: so an image must not only look real, but show the right thing in the right place. a weighs rare classes up.

Fake: one network call from noise and the label map that comes with a real image (its source, 1 for class 1 and -1 for
class 0). Discriminator: a frozen classifier whose maps a trained decoder brings back to pixels. The paper also has a
contrastive term between patches of image and map, focal weights, and noise that enters by cross-attention; its weights
are not known to us. Ours: two classes, the diversity term above (|.| is the mean absolute value; it is bounded, so that
images do not run away), networks, rates and sizes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import Losses, check_not_negative, held_out
from sparring.objectives import KPlusOne, Penalty, inverse_frequency
from sparring.runs.field import Field

CLASSES, WEIGHED = 2, 1000


@dataclass
class LayoutViews(Views):
    """What a discriminator sees; and the fakes [B, C, H, W] with their latents, and others of the same label maps."""

    images: Tensor | None = None
    others: Tensor | None = None
    distance: Tensor | None = None


class DPSIMS(GAN):
    """A generator of images of label maps with two classes of pixels.

    Args:
        generator: from latents and label maps to images.
        discriminator: with logits [B, 3, H, W].
        diversity: weight of the term that is small when two images of a label map differ.
        penalty: one penalty or several on the discriminator.

    Raises:
        ValueError: a negative weight, or a generator that takes no label maps.
    """

    weights: Tensor

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        diversity: float = 1.0,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(diversity=diversity)
        if not generator.takes_source:
            raise ValueError(f"`net`: {type(generator.net).__name__} takes no label maps: use LayoutGenerator")
        super().__init__(generator, discriminator, objective=KPlusOne(), penalty=penalty)
        self.diversity = diversity
        self.register_buffer("weights", torch.ones(CLASSES))

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        sources = data.source_images(min(len(data), WEIGHED))
        assert sources is not None  # the generator has checked it
        self.weights.copy_(torch.tensor(inverse_frequency(classes_in(sources), CLASSES)))

    def rollout(self, batch: Batch) -> LayoutViews:
        self.objective = KPlusOne(weights=self.weights.tolist())
        source = source_of(batch)
        z, other = self.generator.latents(batch), self.generator.latents(batch)
        fake = self.generator(z, source=source)
        others = self.generator(other, source=source) if self.diversity > 0 else None
        views = self.discriminator.views(batch.images, fake, Given(labels=classes_in(source)), batch.draws)
        return LayoutViews(views.real, views.fake, views.given, fake, others, (z - other).abs().mean(1))

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        assert isinstance(rollout, LayoutViews)
        losses = super().generator_loss(batch, rollout)
        if rollout.others is not None and rollout.images is not None and rollout.distance is not None:
            apart = (rollout.images - rollout.others).abs().flatten(1).mean(1) / rollout.distance
            losses["diversity"] = self.diversity * (-apart).exp().mean()
        return losses

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        return []

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """How well held-out label maps are kept, and how much two images of one differ.

        `iou` is the intersection over union of class 1 with the pixels of a fake that are above the middle of its
        smallest and largest value, `iou_real` that of the real images; `spread` is `mean |G(z, t) - G(z', t)|`.
        """
        assert isinstance(generator, LatentGenerator)
        batch = held_out(data, draws)
        source = source_of(batch)
        first, second = (generator(generator.latents(batch), source=source) for _ in range(2))
        classes = classes_in(source)
        return {
            "iou": iou(bright(first), classes),
            "iou_real": iou(bright(batch.images), classes),
            "spread": float((first - second).abs().mean()),
        }


def source_of(batch: Batch) -> Tensor:
    """The label maps [B, 1, H, W] of a batch.

    Raises:
        ValueError: it has none.
    """
    if batch.source is None:
        raise ValueError("DP-SIMS needs a label map with each image, as its source: use DigitLayouts, or pairs")
    return batch.source


def classes_in(sources: Tensor) -> Tensor:
    """[B, H, W] class 1 where a label map [B, 1, H, W] is above 0, else class 0."""
    return (sources[:, 0] > 0).long()


def bright(images: Tensor) -> Tensor:
    """[B, H, W] class 1 where the mean over channels is above the middle of its smallest and largest value."""
    grey = images.mean(1)
    middle = (grey.amax((1, 2), keepdim=True) + grey.amin((1, 2), keepdim=True)) / 2
    return (grey > middle).long()


def iou(found: Tensor, true: Tensor) -> float:
    """Intersection over union of class 1 of label maps [B, H, W], over all pixels."""
    return float((found * true).sum() / (found + true).clamp(max=1).sum().clamp_min(1))
