"""Class-wise objectives: a discriminator that says which class an image, or a pixel, shows, or that it is fake."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from sparring.networks.precision import at_least_float32
from sparring.objectives.adversarial import Objective, Scores, discriminator_statistics

Target = Literal["given", "dynamic", "shuffled"]


class KPlusOne(Objective):
    """K classes of reals and one of fakes: logits [B, K+1, ...], the last for fake, labels [B, ...].

    `mean CE(l(x), y) + mean CE(l(G), K+1)` for the discriminator, `mean CE(l(G), target)` for the generator.
    Source: Zhou et al. 2017, "Activation Maximization Generative Adversarial Nets" (arXiv 1703.02000). With maps
    [B, K+1, H, W] and labels [B, H, W] every pixel is such a decision, as in OASIS and DP-SIMS (arXiv 2312.13314). With
    K = 1 it is the non-saturating objective of `l_1 - l_2`.

    Args:
        target: class that a fake should be taken for: the "given" one or, "dynamic", that of its largest logit; or one
            that is "shuffled" over the rows: a control.
        weights: factor of the terms of each class, but not of fakes; `inverse_frequency` of pixels. None: 1.
        num_classes: K of the data; with it, logits of another number are refused.

    Raises:
        ValueError: in the losses, scores without labels, or of another shape or number of classes.
    """

    has_zero = False  # of all logits

    def __init__(
        self,
        *,
        target: Target = "given",
        weights: Sequence[float] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.target, self.weights, self.num_classes = target, None if weights is None else tuple(weights), num_classes
        self.takes_labels = target != "dynamic"

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        called_fake = at_least_float32(fake.logits).log_softmax(1)[:, -1]
        return self._cross_entropy(real.logits, self._labels(real)) - called_fake.mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        labels = fake.logits[:, :-1].argmax(1) if self.target == "dynamic" else self._labels(fake)
        return self._cross_entropy(fake.logits, labels.roll(1, 0) if self.target == "shuffled" else labels)

    @torch.no_grad()
    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Those of `log (p_real / p_fake)` of the sides, and the share of reals that are put into their class."""
        right = real.logits[:, :-1].argmax(1) == self._labels(real)
        sides = [Scores(at_least_float32(s.logits[:, :-1]).logsumexp(1) - s.logits[:, -1]) for s in (real, fake)]
        return discriminator_statistics(*sides) | {"class_accuracy": right.float().mean()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if self.weights is None else logits.new_tensor([*self.weights, 1.0], dtype=torch.float32)
        logits = at_least_float32(logits)
        weight = None if weight is None else weight.to(logits.dtype)
        return cross_entropy(logits, labels, weight=weight, reduction="none").mean()

    def _labels(self, scores: Scores) -> Tensor:
        logits, labels = scores.logits, scores.labels
        if labels is None:
            raise ValueError("`KPlusOne` is of classes, and the data has no labels")
        fits = logits.ndim == labels.ndim + 1 and self.num_classes in (None, logits.shape[1] - 1)
        if not fits or logits.shape[2:] != labels.shape[1:]:
            raise ValueError(
                f"`KPlusOne` takes logits [B, K+1, ...] of labels [B, ...], and got {tuple(logits.shape)} of "
                f"{tuple(labels.shape)}: give the discriminator an output for each class and one for fakes"
                f"{'' if self.num_classes is None else f', {self.num_classes} + 1'}"
            )
        return labels


class Decisions(Objective):
    """A decision between real and fake for each of K classes, of which a real image has a share: logits d [B, K].

    `mean_x sum_k w_k sp(-d_k(x)) + mean sp(d_c(G))` for the discriminator, `mean sp(-d_c(G))` for the generator. With
    one-hot weights these are K GANs. The best logit is `log (mean w_k) p_k / (pi_k q_k)`, p_k being the law of the
    reals weighted by w_k, pi_k the share of class k among the fakes and q_k their law. After Zhao et al. 2018, "GAN-EM"
    (arXiv 1812.00335), which weighs a cross entropy by soft labels; the form is ours.

    Args:
        weights: [B, K] of the real images, each row with the sum 1.
        classes: [B] of the fakes.
    """

    has_zero = False  # of all logits

    def __init__(self, weights: Tensor, classes: Tensor) -> None:
        self.weights, self.classes = weights, classes

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        weighted = (self.weights * softplus(-at_least_float32(real.logits))).sum(1)
        return weighted.mean() + softplus(self._own(fake)).mean()

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return softplus(-self._own(fake)).mean()

    @torch.no_grad()
    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Those of the logits of an image's most probable class, and of a fake's own."""
        likely = at_least_float32(real.logits).gather(1, self.weights.argmax(1, keepdim=True))
        return discriminator_statistics(Scores(likely), Scores(self._own(fake)))

    def _own(self, fake: Scores) -> Tensor:
        return at_least_float32(fake.logits).gather(1, self.classes[:, None])


class SemiSupervised(Objective):
    """K classes, some rows with a label: logits l [B, K], labels [B]; -1 - y for a row whose label y is hidden.

    `mean CE(l(x), y)` over rows with a label, `+ mean sp(-lse l(x)) + mean sp(lse l(G))` for the discriminator: real is
    what has any class, `D = Z / (Z + 1)`, `Z = sum_k exp l_k`; `mean sp(-lse l(G))` for the generator, unless
    `FeatureMatching` has another. Source: Salimans et al. 2016 (arXiv 1606.03498), section 5.

    The first mean divides by the number of rows that are expected to have a label, `labelled` of all: so every cut of
    a batch into micro-batches gives the same.

    Args:
        labelled: share of the rows with a label.
        unlabelled_weight: factor of the last two means.
        num_classes: K of the data; with it, logits of another number are refused.

    Raises:
        ValueError: a share outside (0, 1], a negative weight; in the losses, logits of other shape.
    """

    has_zero = False  # of all logits

    def __init__(
        self, *, labelled: float = 1.0, unlabelled_weight: float = 1.0, num_classes: int | None = None
    ) -> None:
        if not 0 < labelled <= 1 or unlabelled_weight < 0:
            raise ValueError(
                f"`labelled={labelled}`, `unlabelled_weight={unlabelled_weight}`: the share of rows with a label lies "
                "in (0, 1], the weight is 0 or more"
            )
        self.labelled, self.unlabelled_weight, self.num_classes = labelled, unlabelled_weight, num_classes

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        if real.labels is None or real.logits.ndim != 2 or self.num_classes not in (None, real.logits.shape[1]):
            raise ValueError(
                f"`SemiSupervised` takes logits [B, {self.num_classes or 'K'}] and labels, and got logits "
                f"{tuple(real.logits.shape)} and {'no' if real.labels is None else tuple(real.labels.shape)} labels"
            )
        l_real, l_fake = at_least_float32(real.logits), at_least_float32(fake.logits)
        classes = cross_entropy(l_real, real.labels.clamp_min(0), reduction="none")
        known = (classes * (real.labels >= 0)).mean() / self.labelled
        return known + self.unlabelled_weight * (
            softplus(-l_real.logsumexp(1)).mean() + softplus(l_fake.logsumexp(1)).mean()
        )

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        return softplus(-at_least_float32(fake.logits).logsumexp(1)).mean()

    @torch.no_grad()
    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Those of `lse l`; and the share of reals with a hidden label that are put into their class (0 of none)."""
        sides = [Scores(at_least_float32(s.logits).logsumexp(1)) for s in (real, fake)]
        assert real.labels is not None
        right = (real.logits.argmax(1) == -1 - real.labels).float().sum() / (real.labels < 0).sum().clamp_min(1)
        return discriminator_statistics(*sides) | {"hidden_class_accuracy": right}


def inverse_frequency(labels: Tensor, num_classes: int) -> list[float]:
    """a_c = N / (K N_c) of labels of any shape: 1 for balanced classes, 0 for one that is not there."""
    counts = torch.bincount(labels.flatten(), minlength=num_classes).double()
    return [float(labels.numel() / (num_classes * count)) if count > 0 else 0.0 for count in counts]
