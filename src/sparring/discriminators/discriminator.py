"""The seam of all discriminators: features of images, and logits of features given what is known beside the images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.data import Draws, ImageData
from sparring.objectives import Objective, Scores

Features = list[Tensor]
"""Of a batch of images, each [B, ...]."""


@dataclass(frozen=True)
class Given:
    """What is known of the rows of a batch beside the images; a discriminator reads what it needs.

    Attributes:
        labels: [B] class numbers; [B, H, W] of the pixels.
        t: [B] times of the noisy images that the fakes were made from.
        x_t: [B, C, H, W] these noisy images.
        reference: features of the real images to compare with, row by row.
        condition: what the generator is conditioned on.
        weight: [B] weight of each row, >= 0; None: all weigh 1.
        cost: [B] cost of bringing each fake from where it comes, with the graph of its rollout.
    """

    labels: Tensor | None = None
    t: Tensor | None = None
    x_t: Tensor | None = None
    reference: Features | None = None
    condition: Any = None
    weight: Tensor | None = None
    cost: Tensor | None = None


@dataclass
class Views:
    """What a discriminator sees in a step, made once for both players; empty without a discriminator.

    Attributes:
        real: features of the real images, without a graph.
        fake: features of the fakes, with the graph of their rollout.
        given: what is known beside the images, the features of the reference among it.
    """

    real: Features = field(default_factory=list)
    fake: Features = field(default_factory=list)
    given: Given = field(default_factory=Given)


def identity(tensor: Tensor) -> Tensor:
    """The tensor itself: the rows of one process are all there are."""
    return tensor


class Discriminator(nn.Module, ABC):
    """Tells real images from fakes, high logits for real, in two parts.

    `features` is the part that training leaves alone (augmentation, a frozen backbone, or the images themselves), so
    they are made once a step and serve both players' losses. `logits` is the part that is trained. Penalties attach
    between the two.

    Attributes:
        needs_reference: whether logits compare with real images in `Given.reference`: "no"; with "any" real images; or
            "aligned", row i being the image that fake i was made from.
        gather: joins a [B, ...] tensor with those of other processes into [B_total, ...]; the identity by default. The
            trainer sets it to a differentiable all-gather whose backward sums the gradients over the processes. Only a
            discriminator that relates the rows of a batch calls it.
    """

    needs_reference: Literal["no", "any", "aligned"] = "no"

    def __init__(self) -> None:
        super().__init__()
        self.gather: Callable[[Tensor], Tensor] = identity

    @abstractmethod
    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """What `logits` takes of images [B, C, H, W] in [-1, 1]; differentiable, without a trained weight."""

    @abstractmethod
    def logits(self, features: Features, given: Given) -> Tensor:
        """Logits of any shape, float32, of the features of a batch; rows of `given` belong to rows of the features."""

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        """The scores of several batches of candidates; what depends only on `given` may be computed once for all."""
        return [Scores(self.logits(features, given), features) for features in candidates]

    def views(self, real: Tensor, fake: Tensor, given: Given, draws: Draws, reference: Tensor | None = None) -> Views:
        """The features of real images and fakes [B, C, H, W] and, if it compares, of the reference images.

        Raises:
            ValueError: no reference images for a discriminator that compares.
        """
        with torch.no_grad():
            features = self.features(real, given, draws)
            if self.needs_reference != "no":
                if reference is None:
                    raise ValueError(f"{type(self).__name__} compares fakes with real images, which this method lacks")
                given = replace(given, reference=self.features(reference, given, draws))
        return Views(features, self.features(fake, given, draws), given)

    def forward(self, x: Tensor, given: Given, draws: Draws) -> Tensor:
        """Logits of images [B, C, H, W] in [-1, 1]."""
        return self.logits(self.features(x, given, draws), given)

    def field(self, x: Tensor, given: Given) -> dict[str, Tensor]:
        """[B] logits of points [B, 2, 1, 1] (or images) as they are, by what tells several pictures of them apart."""
        return {"": self.logits([x], given).view(len(x), -1).mean(1)}

    def losses(self) -> dict[str, Tensor]:
        """Terms that this discriminator minimises beside the objective; none by default."""
        return {}

    def statistics(self, real: Scores, fake: Scores, given: Given, step: int) -> dict[str, Tensor]:
        """What to log of an update in step `step`, beside the objective's statistics; nothing by default."""
        return {}

    def check_objective(self, objective: Objective) -> None:
        """Raises ValueError if this discriminator cannot work with an objective."""

    @property
    def takes_labels(self) -> bool:
        """Whether `logits` may depend on `Given.labels`; by default it is taken to."""
        return True

    @property
    def num_classes(self) -> int | None:
        """How many classes it can be told; None if it takes none or does not know."""
        return None

    @property
    def needs_images(self) -> bool:
        """Whether `prepare` looks at the images."""
        return False

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Called once before the first step of a new run; a small backbone learns from the training images here."""

    def after_update(self) -> None:
        """Called after each update of this discriminator (spectral norms, pull-back, clipped weights)."""

    def check(self, batch_size: int) -> None:
        """Raises ValueError if batches of `batch_size` rows cannot work."""


def check_told(discriminator: Discriminator, takes_labels: bool, from_noise: bool = False) -> None:
    """Raises ValueError for fakes of classes that the discriminator is not told, so that any class would do.

    Args:
        discriminator: of the fakes.
        takes_labels: whether the generator does.
        from_noise: whether the fakes come from noise only: a discriminator of classes is then refused as well, if the
            generator takes none, because no label belongs to a fake.
    """
    if from_noise and discriminator.num_classes is not None and not takes_labels:
        raise ValueError(
            f"the generator takes no classes and {type(discriminator).__name__} does, so that a fake of any class but "
            "its label's would be found out: leave out `num_classes`, or give them to both"
        )
    if takes_labels and not discriminator.takes_labels:
        raise ValueError(
            f"the generator is class-conditional and {type(discriminator).__name__} takes no classes, which "
            "would then mean nothing: set `num_classes` for it, too (of a network, with `labels` in `given`), or for "
            "neither"
        )


def check_single(discriminator: Discriminator) -> None:
    """Raises ValueError for a discriminator that sees an image beside the one it was made from, and not by itself."""
    if discriminator.needs_reference != "no":
        raise ValueError(
            f"{type(discriminator).__name__} compares fakes with the images they were made from: use one of single "
            "images, such as ProjectedDiscriminator"
        )
