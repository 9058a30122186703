"""Kernels on the embeddings of a discriminator: the distance of two batches, and the penalty on its witness."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.networks.precision import at_least_float32
from sparring.objectives.adversarial import Objective, Scores
from sparring.objectives.penalties import Penalty, Scoring, interpolates, squared_gradients


class Kernel(ABC):
    """A positive (or, of the distance, conditionally positive) definite kernel."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """[n, m] values of embeddings [n, d] and [m, d]."""


class RationalQuadratic(Kernel):
    """`sum_a (1 + |x-y|^2 / (2a))^-a + dot <x,y>`.

    Source: Binkowski et al. 2018, "Demystifying MMD GANs" (arXiv 1801.01401), which has a dot product of weight 1.

    Args:
        exponents: a.
        dot: factor of the linear kernel, without which embeddings far apart give no gradient.

    Raises:
        ValueError: no exponent, or one that is not above 0.
    """

    def __init__(self, *, exponents: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0), dot: float = 1.0) -> None:
        if not exponents or min(exponents) <= 0:
            raise ValueError(f"`exponents={list(exponents)}` must be above 0, one at least")
        self.exponents, self.dot = tuple(exponents), dot

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        squares = squared_distances(x, y)
        return sum(((-a * torch.log1p(squares / (2 * a))).exp() for a in self.exponents), self.dot * products(x, y))


class GaussianMixtureKernel(Kernel):
    """`sum_s exp(-|x-y|^2 / (2 s))` over variances s.

    Source: Li et al. 2017, "MMD GAN" (arXiv 1705.08584), with these five variances.

    Args:
        variances: s.

    Raises:
        ValueError: no variance, or one that is not above 0.
    """

    def __init__(self, *, variances: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0)) -> None:
        if not variances or min(variances) <= 0:
            raise ValueError(f"`variances={list(variances)}` must be above 0, one at least")
        self.variances = tuple(variances)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        squares = squared_distances(x, y)
        return torch.stack([(squares / (-2 * s)).exp() for s in self.variances]).sum(0)


class Distance(Kernel):
    """`-|x-y|`: the distance of two batches is then the energy distance (Szekely and Rizzo 2013)."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return -squared_distances(x, y).clamp_min(1e-12).sqrt()


class Linear(Kernel):
    """`<x,y>`: the distance of two batches is then that of their means."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return products(x, y)


class MMD(Objective):
    """Squared maximum mean discrepancy of the embeddings: the discriminator raises it and the generator lowers it.

    The logits of an image are its embedding. Source: Binkowski et al. 2018 (arXiv 1801.01401); for a fixed
    discriminator the generator's gradient is unbiased, for one that was fitted on samples it is not.

    Args:
        kernel: on embeddings; rational quadratic with a dot product when None.
        group: rows that are compared at once, a divisor of the rows that are seen together; so that every cut of a
            batch into micro-batches gives the same mean. None: all.

    Raises:
        ValueError: a group below 2; in the losses, a group that does not divide the rows.
    """

    needs_real, has_zero = True, False

    def __init__(self, *, kernel: Kernel | None = None, group: int | None = None) -> None:
        if group is not None and group < 2:
            raise ValueError(f"`group={group}`: the discrepancy lies in pairs of rows; at least 2")
        self.kernel, self.group = kernel or RationalQuadratic(), group

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return -self._discrepancy(real, fake)

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        if real is None:
            raise ValueError("`MMD` compares fakes with reals: pass the scores of `real` to `generator` too")
        return self._discrepancy(real, fake)

    @torch.no_grad()
    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """`mmd`, the unbiased estimate, which may be below 0. Embeddings have no zero, so there is no accuracy."""
        return {"mmd": self._discrepancy(real, fake)}

    def _discrepancy(self, real: Scores, fake: Scores) -> Tensor:
        pairs = zip(groups(real.logits, self.group), groups(fake.logits, self.group), strict=True)
        return torch.stack([squared_mmd(self.kernel, x, y) for x, y in pairs]).mean()


class FeatureMatching(Objective):
    """`|mean h(x) - mean h(G)|^2` for the generator, h the layer before the last; the discriminator keeps its loss.

    It is the (biased) squared discrepancy of a linear kernel: only means are matched.
    Source: Salimans et al. 2016, "Improved Techniques for Training GANs" (arXiv 1606.03498), section 3.1.

    Args:
        base: objective of the discriminator.
        group: rows whose means are compared, see `MMD`. With fewer than 64 the means are mostly noise. None: all.

    Raises:
        ValueError: a group below 1; in the losses, scores without hidden layer, a group that does not divide the rows.
    """

    needs_real = True

    def __init__(self, base: Objective, *, group: int | None = None) -> None:
        if group is not None and group < 1:
            raise ValueError(f"`group={group}`: means of at least 1 row")
        self.base, self.group, self.has_zero = base, group, base.has_zero

    def discriminator(self, real: Scores, fake: Scores) -> Tensor:
        return self.base.discriminator(real, fake)

    def generator(self, fake: Scores, real: Scores | None = None) -> Tensor:
        if real is None or real.hidden is None or fake.hidden is None:
            raise ValueError(
                "`FeatureMatching` compares the hidden layers of fakes and reals: name one to the discriminator "
                "(`PlainDiscriminator.last`)"
            )
        pairs = zip(groups(real.hidden, self.group), groups(fake.hidden, self.group), strict=True)
        return torch.stack([(x.mean(0) - y.mean(0)).square().sum() for x, y in pairs]).mean()

    def statistics(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        return self.base.statistics(real, fake)


class WitnessPenalty(Penalty):
    """`(|grad w| - 1)^2` of the witness `w(u) = mean_j k(h(u), h(x_j)) - mean_j k(h(u), h(G_j))` at interpolates u.

    The rows x_j and G_j inside w are not detached. Source: Binkowski et al. 2018 (arXiv 1801.01401), with the weight 1.

    Args:
        weight: factor of the penalty.
        every: steps from one computation to the next.
        kernel: that of the objective; rational quadratic with a dot product when None.
        group: rows that w is made of, see `MMD`; None: all.
    """

    name = "witness_penalty"

    def __init__(
        self, *, weight: float = 1.0, every: int = 1, kernel: Kernel | None = None, group: int | None = None
    ) -> None:
        super().__init__(weight=weight, every=every)
        self.kernel, self.group = kernel or RationalQuadratic(), group

    def __call__(self, discriminator: Scoring, real: Scores, fake: Scores, given: Any, draws: Draws) -> Tensor:
        between = interpolates(real.features, fake.features, draws)
        embedded = [groups(z, self.group) for z in (discriminator.logits(between, given), real.logits, fake.logits)]
        witness = [self.kernel(u, x).mean(1) - self.kernel(u, y).mean(1) for u, x, y in zip(*embedded, strict=True)]
        squares = torch.stack(squared_gradients(torch.cat(witness), between)).sum(0)
        return (squares.clamp_min(1e-12).sqrt() - 1).square().mean()


def squared_mmd(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of `E k(x,x') - 2 E k(x,y) + E k(y,y')`, a scalar: pairs of a row with itself are left out.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", Eq. (3).

    Args:
        kernel: on embeddings.
        x: [n, d], n at least 2.
        y: [m, d], m at least 2.

    Raises:
        ValueError: fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel compares pairs of rows, but there are {len(x)} and {len(y)}: use at least 2")
    return _mean_of_pairs(kernel(x, x)) - 2 * kernel(x, y).mean() + _mean_of_pairs(kernel(y, y))


def check_group(size: int | None, rows: int) -> None:
    """Raises ValueError if groups of `size` (None: of all) do not divide the rows."""
    if size is not None and rows % size:
        raise ValueError(
            f"`group={size}` does not divide the {rows} rows that are seen at once (`batch_size` over `accumulation` "
            "and processes): give a divisor"
        )


def groups(logits: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """Rows [B, ...] as groups [size, d], at least float32.

    Raises:
        ValueError: `size` does not divide B.
    """
    check_group(size, len(logits))
    return at_least_float32(logits).reshape(len(logits), -1).split(size or len(logits))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, m] squared distances of rows [n, d] and [m, d], about their common centre, which keeps the digits."""
    centre = y.detach().mean(0)
    x, y = x - centre, y - centre
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * products(x, y)).clamp_min(0)


def products(x: Tensor, y: Tensor) -> Tensor:
    """[n, m] inner products of rows [n, d] and [m, d], in their own precision under autocast, too."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def _mean_of_pairs(values: Tensor) -> Tensor:
    """Mean of a square matrix without its diagonal."""
    return (values.sum() - values.diagonal().sum()) / (len(values) * (len(values) - 1))
