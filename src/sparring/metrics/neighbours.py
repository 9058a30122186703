"""Nearest neighbours between features, exact and in blocks: precision, recall, density, coverage, rarity, copies."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.metrics.moments import as_double

# On the rim of a ball is inside, whatever the rounding: of the radius, and of the terms of |x|^2 + |y|^2 - 2 x.y.
_RADIUS_ROUNDING, _TERMS_ROUNDING = 1e-9, 1e-12

_RARE = 0.9  # of the reals are in denser places than what counts as rare


@dataclass
class Manifolds:
    """Precision, recall, density, coverage and rarity of fakes against reals; all but density lie in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float
    rare_share: float


def radii(x: Tensor, ks: tuple[int, ...] = (3, 5), *, block: int = 1024) -> Tensor:
    """Distance of every row of x [n, d] to its k-th nearest other row, for each k of `ks` -> [len(ks), n] float64."""
    largest = max(ks)
    if len(x) <= largest:
        raise ValueError(f"{len(x)} rows: the {largest}-th nearest neighbour needs at least {largest + 1}")
    x, _ = _centred(x, x)
    nearest = torch.empty(len(x), largest, dtype=x.dtype, device=x.device)
    for start, rows in _blocks(x, block):
        best = torch.full((len(rows), largest), torch.inf, dtype=x.dtype, device=x.device)
        for other, columns in _blocks(x, block):
            squared = _squared_distances(rows, columns)
            if start == other:
                squared.fill_diagonal_(torch.inf)
            found = squared.topk(min(largest, len(columns)), dim=1, largest=False).values
            best = torch.cat([best, found], 1).topk(largest, dim=1, largest=False).values
        nearest[start : start + len(rows)] = best.sort(1).values
    return torch.stack([nearest[:, k - 1] for k in ks]).sqrt()


def nearest(x: Tensor, y: Tensor, *, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Distance of each row of x [n, d] to its nearest row of y [m, d], and its index -> [n] float64, [n] int64."""
    x, y = _centred(x, y)
    distances = torch.empty(len(x), dtype=x.dtype, device=x.device)
    indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for start, rows in _blocks(x, block):
        best = torch.full((len(rows),), torch.inf, dtype=x.dtype, device=x.device)
        index = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
        for other, columns in _blocks(y, block):
            value, column = _squared_distances(rows, columns).min(1)
            closer = value < best
            best = torch.where(closer, value, best)
            index = torch.where(closer, column + other, index)
        indices[start : start + len(rows)] = index
        distances[start : start + len(rows)] = (rows - y[index]).square().sum(1).sqrt()
    return distances, indices


def manifolds(real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor, *, block: int = 1024) -> Manifolds:
    """Precision and recall (k = 3), density, coverage and rarity (k = 5) of fakes [m, d] against reals [n, d].

    Precision: share of fakes inside the ball of at least one real, whose radius reaches its 3rd nearest other real;
        recall: the reverse (Kynkaanniemi et al. 2019). Density: number of balls of reals (5th nearest) that hold a
        fake, per fake, over 5; coverage: share of reals whose ball holds at least one fake (Naeem et al. 2020). Balls
        are closed. rare_share (ours): share of fakes that are precise, and farther from their 5th nearest real than
        nine tenths of reals are from theirs.

    Args:
        real: Features [n, d].
        fake: Features [m, d].
        real_radii: [2, n] from `radii(real, (3, 5))`.
        fake_radii: [1 or 2, m] from `radii(fake, (3, ...))`; only the first row is used.
        block: Rows per block.
    """
    real, fake = _centred(real, fake)
    inside3, inside5 = (real_radii.to(real.device).square() * (1 + _RADIUS_ROUNDING)).unbind(0)
    fake3 = fake_radii[0].to(real.device).square() * (1 + _RADIUS_ROUNDING)
    far = real_radii[1].to(real.device).quantile(_RARE).square() * (1 + _RADIUS_ROUNDING)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    precise = rare = total = 0
    for start, rows in _blocks(fake, block):
        hit = torch.zeros(len(rows), dtype=torch.bool, device=real.device)
        near = torch.empty(len(rows), 0, dtype=real.dtype, device=real.device)
        for other, columns in _blocks(real, block):
            span = slice(other, other + len(columns))
            squared = _squared_distances(rows, columns, rounding=_TERMS_ROUNDING)
            hit |= (squared <= inside3[span]).any(1)
            recalled[span] |= (squared <= fake3[start : start + len(rows), None]).any(0)
            within = squared <= inside5[span]
            total += int(within.sum())
            covered[span] |= within.any(0)
            near = torch.cat([near, squared], 1)
            near = near.topk(min(5, near.shape[1]), dim=1, largest=False).values
        precise += int(hit.sum())
        rare += int((hit & (near.amax(1) > far)).sum())
    return Manifolds(
        precision=precise / len(fake),
        recall=recalled.double().mean().item(),
        density=total / (5 * len(fake)),
        coverage=covered.double().mean().item(),
        rare_share=rare / len(fake),
    )


@dataclass
class Memorisation:
    """Signs of copying: the fakes' distances to the training set against those of reals that nobody trained on.

    memorisation is the mean distance of a fake to its nearest training image over that of a held-out image (1: as far
    as a real; towards 0: copies; None if the held-out images are training images). Blur and lost modes lower it too.
    train_share is the share of fakes whose nearest real, among training and held-out images, is a training image; under
    no copying its expectation is train_share_expected, whatever the quality. closest_pairs lists (fake, training image,
    distance), closest first.
    """

    memorisation: float | None
    train_share: float
    train_share_expected: float
    closest_pairs: list[tuple[int, int, float]]


def memorisation(fake: Tensor, train: Tensor, holdout: Tensor, *, pairs: int = 8) -> Memorisation:
    """Nearest-neighbour distances of fakes [m, d] to training rows [n, d] and held-out rows [h, d]. See `Memorisation`.

    Source: the comparison with held-out data is that of Meehan et al. 2020; the two numbers are ours.
    """
    to_train, index = nearest(fake, train)
    to_holdout, _ = nearest(fake, holdout)
    between, _ = nearest(holdout, train)
    closer = (to_train < to_holdout).double() + 0.5 * (to_train == to_holdout).double()
    order = to_train.argsort(stable=True)[:pairs]
    return Memorisation(
        float(to_train.mean() / between.mean()) if between.any() else None,
        float(closer.mean()),
        len(train) / (len(train) + len(holdout)),
        [(int(i), int(index[i]), float(to_train[i])) for i in order],
    )


def _blocks(x: Tensor, block: int) -> Iterator[tuple[int, Tensor]]:
    return ((start, x[start : start + block]) for start in range(0, len(x), block))


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 about one centre: distances stay, rounding shrinks."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"features have the shapes {tuple(x.shape)} and {tuple(y.shape)}, expected [n, d] and [m, d]")
    x, y = as_double(x), as_double(y)
    centre = y.mean(0)
    return x - centre, y - centre


def _squared_distances(x: Tensor, y: Tensor, *, rounding: float = 0.0) -> Tensor:
    """Squared distances [n, m] of all pairs of rows, less `rounding` times the squared norms of the two."""
    squared = (x.square().sum(1)[:, None] + y.square().sum(1)).mul_(1 - rounding)
    return squared.addmm_(x, y.T, alpha=-2).clamp_(min=0)
