"""Improved-GAN: improved techniques for training GANs (Salimans et al., arXiv 1606.03498).

Status: no gain; without R1 each technique covers 1 to 5 of 25 modes, with it 24.7 (docs/results/gans.md).

Five techniques, each a setting of its own, on the non-saturating GAN (sp is softplus):

    smoothing s                 L_D = mean [(1 - s) sp(-D(x)) + s sp(D(x))] + mean sp(D(G)), one-sided: only of reals
    feature matching            L_G = |mean h(x) - mean h(G)|^2, h a layer of D
    historical averaging        L += weight |theta - mean of all theta before|^2, for both players
    minibatch discrimination    D sees how close the images of a group are (`PlainDiscriminator.minibatch`)
    semi-supervised             K logits l, lse their logsumexp, y the labels of some rows:
                                L_D = mean CE(l(x), y) + mean sp(-lse l(x)) + mean sp(lse l(G))

Fake: one network call from noise. In the semi-supervised setting real is what has any class, and the paper uses feature
matching and no minibatch discrimination. Which rows have a label is drawn by a seed, each row for itself. Left out is
virtual batch normalisation. Group sizes, rates, and that the averages run over steps are ours.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData, derived_seed
from sparring.discriminators import Discriminator, Given, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN, in_full_groups
from sparring.methods.method import Losses, check_not_negative, held_out, moving_copy
from sparring.metrics.classes import class_accuracy
from sparring.objectives import FeatureMatching, NonSaturating, Objective, Penalty, SemiSupervised
from sparring.runs.field import Field


class ImprovedGAN(GAN):
    """A generator of images or points, trained from scratch with one or several of the techniques.

    Args:
        generator: from latents to images.
        discriminator: of single images, or with `minibatch`; when rows are `labelled`, with a logit for each class.
        smoothing: s; the paper has 0.1.
        feature_matching: whether the generator matches features instead of fooling the discriminator, of which the
            `last` layer is then named.
        group: rows whose mean features are matched; all that are seen at once when None.
        history_weight: of the squared distance of each player from the mean of all it was; 0 switches it off.
        labelled: share of the rows with a label, which makes it semi-supervised; None: it is not.
        unlabelled_weight: of what is real or fake in the semi-supervised loss; at 0 only labels teach.
        label_seed: of the choice of these rows.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        smoothing: float = 0.1,
        feature_matching: bool = False,
        group: int | None = None,
        history_weight: float = 0.0,
        labelled: float | None = None,
        unlabelled_weight: float = 1.0,
        label_seed: int = 0,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        check_not_negative(history_weight=history_weight)
        if labelled is not None and (smoothing > 0 or generator.takes_labels):
            raise ValueError(f"`labelled={labelled}` goes with `smoothing=0` and a generator that takes no classes")
        base: Objective = NonSaturating(smoothing=smoothing)
        if labelled is not None:
            base = SemiSupervised(labelled=labelled, unlabelled_weight=unlabelled_weight)
        objective = FeatureMatching(base, group=group) if feature_matching else base
        super().__init__(generator, discriminator, objective=objective, penalty=penalty)
        self.labelled, self.label_seed = labelled, label_seed
        self.history_weight = history_weight
        self.past = moving_copy(nn.ModuleList([generator, discriminator])) if history_weight > 0 else None

    def size_for(self, data: ImageData) -> None:
        """Lets the semi-supervised loss refuse a discriminator of other classes than those of the data."""
        base = self.objective.base if isinstance(self.objective, FeatureMatching) else self.objective
        if isinstance(base, SemiSupervised):
            base.num_classes = data.num_classes

    def rollout(self, batch: Batch) -> Views:
        views = super().rollout(batch)
        if self.labelled is None:
            return views
        return replace(views, given=replace(views.given, labels=self.some_labels(batch)))

    def discriminator_loss(self, batch: Batch, rollout: Views) -> Losses:
        return super().discriminator_loss(batch, rollout) | self.history(1, self.discriminator)

    def generator_loss(self, batch: Batch, rollout: Views) -> Losses:
        return super().generator_loss(batch, rollout) | self.history(0, self.generator)

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """The logit over the plane, each point by itself; none of classes."""
        return super().fields(batch, points) if self.labelled is None else []

    def history(self, player: int, now: nn.Module) -> Losses:
        """The squared distance of a player from the mean of what it was, times its weight; 0 in the first step."""
        if self.past is None:
            return {}
        pairs = zip(now.parameters(), self.past.module[player].parameters(), strict=True)
        moved = torch.stack([(p - mean).square().sum() for p, mean in pairs if p.requires_grad])
        return {"history": self.history_weight * moved.sum()}

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`accuracy` of the discriminator's classes on up to 960 held-out images, if rows are labelled."""
        if self.labelled is None:
            return {}
        batch = held_out(data, draws, 960)
        assert batch.labels is not None
        logits = self.discriminator(in_full_groups(batch.images), Given(), draws)[: len(batch)]
        return {"accuracy": class_accuracy(logits, batch.labels)}

    def some_labels(self, batch: Batch) -> Tensor:
        """[B] labels y of the rows that have one, and -1 - y, which is only looked at for the log, of the others."""
        assert self.labelled is not None
        if batch.labels is None or batch.index is None:
            raise ValueError(f"`labelled={self.labelled}`: the data has no labels, or does not say which row is which")
        draws = [derived_seed(self.label_seed, "label", row) / 2**63 for row in batch.index.tolist()]
        known = torch.tensor(draws, device=batch.labels.device) < self.labelled
        return torch.where(known, batch.labels, -1 - batch.labels)

    def after_step(self) -> None:
        if self.past is not None:
            self.past.follow(nn.ModuleList([self.generator, self.discriminator]), 1 / (self.step + 2))
