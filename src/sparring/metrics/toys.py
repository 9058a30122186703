"""Point clouds and 2-D densities: Wasserstein distances, modes covered, share of good samples."""

import torch
from torch import Tensor

from sparring.metrics.moments import as_double


def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 256, p: int = 2, seed: int = 0) -> float:
    """Sliced p-Wasserstein distance of points [n, ...] and [m, ...] (flattened), in the units of the points.

    The p-th root of the mean, over random directions on the unit sphere, of W_p^p between the projected samples, each
    exact in one dimension, n and m equal or not. Source: Bonneel et al. 2015.
    """
    x, y = as_double(x).flatten(1), as_double(y).flatten(1)
    if not len(x) or not len(y) or x.shape[1] != y.shape[1]:
        raise ValueError(f"points have the shapes {tuple(x.shape)} and {tuple(y.shape)}, expected [n, d] and [m, d]")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, x.shape[1], generator=generator, dtype=torch.float64).to(x.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    a, b = (x @ directions.T).sort(0).values, (y @ directions.T).sort(0).values
    if len(a) == len(b):
        return float((a - b).abs().pow(p).mean() ** (1 / p))
    # quantile functions are steps: between two neighbouring jumps of either, both are constant
    jumps = torch.cat([torch.arange(1, n + 1, dtype=torch.float64) / n for n in (len(a), len(b))]).sort().values
    widths = torch.diff(jumps, prepend=torch.zeros(1, dtype=torch.float64)).to(x.device)
    middles = jumps.to(x.device) - widths / 2
    steps = [rows[(middles * len(rows)).long().clamp(max=len(rows) - 1)] for rows in (a, b)]
    return float(((steps[0] - steps[1]).abs().pow(p) * widths[:, None]).sum(0).mean() ** (1 / p))


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Earth mover's distance of as many points [n, ...] as [n, ...] (flattened): their cheapest assignment, exact.

    Raises:
        ValueError: other shapes.
    """
    from scipy.optimize import linear_sum_assignment

    x, y = as_double(x).flatten(1), as_double(y).flatten(1)
    if not len(x) or x.shape != y.shape:
        raise ValueError(f"points have the shapes {tuple(x.shape)} and {tuple(y.shape)}, expected twice [n, d]")
    costs = torch.cdist(x, y).cpu().numpy()
    return float(costs[linear_sum_assignment(costs)].mean())


def good_share(samples: Tensor, centres: Tensor, radius: float) -> float:
    """Share of samples [n, ...] (flattened) within `radius` of their nearest mode [k, d]; often 3 deviations."""
    return float((_to_modes(samples, centres)[0] <= radius).double().mean())


def modes_covered(samples: Tensor, centres: Tensor, radius: float, *, at_least: int = 1) -> int:
    """Number of modes [k, d] that are the nearest mode of at least `at_least` samples within `radius`."""
    distance, mode = _to_modes(samples, centres)
    return int((torch.bincount(mode[distance <= radius], minlength=len(centres)) >= at_least).sum())


def _to_modes(samples: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    points = as_double(samples).flatten(1)
    centres = as_double(centres).to(points.device)
    if not len(points) or centres.ndim != 2 or centres.shape[1] != points.shape[1]:
        raise ValueError(
            f"samples have {tuple(points.shape)} numbers and the modes {tuple(centres.shape)}, "
            "expected [n, d] with n >= 1 and [k, d]"
        )
    distance, mode = torch.cdist(points, centres).min(1)
    return distance, mode
