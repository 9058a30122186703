"""The Frechet distance between two sets of features, and how much it swings with the sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.metrics.moments import Moments, as_double


@dataclass
class Gaussian:
    """A normal law N(mean, factor factor^T), ready for Frechet distances to many others.

    mean is [d], factor is [d, r] with r <= d: a covariance of low rank keeps only its rank. Both float64.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, moments: Moments) -> "Gaussian":
        """The normal law with these moments."""
        return cls(moments.mean, root(moments.covariance))


def root(covariance: Tensor) -> Tensor:
    """A factor A [d, r] with A A^T = covariance [d, d], float64.

    Cholesky if the matrix is positive definite; otherwise eigenvectors, where eigenvalues below d * 2^-52 of the
    largest count as zero.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed and bool(torch.isfinite(factor).all()):
        return factor.contiguous()
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return (vectors[:, kept] * values[kept].sqrt()).contiguous()


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two normal laws: |m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Source: Dowson and Landau 1982; Heusel et al. 2017 (there on Inception features, and only there called FID). The
        trace of the root is the sum of the singular values of A^T B with S_a = A A^T, S_b = B B^T: no root of a non-
        symmetric matrix, nothing to add when a covariance is singular, and exactly 0 between equal laws up to rounding.
    """
    trace = a.factor.square().sum() + b.factor.square().sum()
    cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + trace - 2 * cross))


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """The Frechet distance (squared) from means [d] and covariances [d, d], in float64. See `frechet_between`."""
    a = Gaussian(as_double(mean_a), root(as_double(covariance_a)))
    return frechet_between(a, Gaussian(as_double(mean_b), root(as_double(covariance_b))))


def frechet_of_features(x: Tensor, y: Tensor) -> float:
    """The Frechet distance (squared) between features [n, d] and [m, d]; biased upward for small n and m."""
    return frechet_between(Gaussian.of(Moments.of(x)), Gaussian.of(Moments.of(y)))


def frechet_resamples(x: Tensor, reference: Gaussian, *, resamples: int = 50, seed: int = 0) -> Tensor:
    """Frechet distances [resamples] of bootstrap resamples of features x [n, d] to a fixed reference.

    The rows that are drawn follow from n and the seed only. Two sets of images from the same latents are therefore
    resampled alike, and the difference of their distances swings far less than each of them. A resample repeats rows,
    which makes its distance larger than that of x.
    """
    if resamples < 2:
        raise ValueError(f"resamples={resamples}: a bootstrap interval needs at least 2 (50 by default)")
    x = as_double(x).to(reference.mean.device)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(resamples):
        rows = torch.randint(len(x), (len(x),), generator=generator)
        weights = torch.bincount(rows, minlength=len(x)).to(x)
        mean = weights @ x / len(x)
        centred = (x - mean) * weights.sqrt()[:, None]
        values.append(frechet_between(Gaussian(mean, root(centred.T @ centred / (len(x) - 1))), reference))
    return torch.tensor(values, dtype=torch.float64)


def frechet_interval(distance: float, resamples: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a Frechet distance, from those of its `frechet_resamples`.

    The percentiles of the resamples are moved by the difference between the distance and their mean. The interval tells
    how far another draw of n samples of the same generator would swing; near the floor it is too wide, by up to sqrt 3.
    It holds neither the bias of small n nor the spread over training seeds. default (ours).
    """
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(resamples - resamples.mean(), ends).tolist()
    return max(0.0, distance + low), distance + high
