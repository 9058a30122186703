"""Numbers for points whose density is known, beside those that any images have."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from sparring.data import ImageData
from sparring.data.toys import Mixture
from sparring.metrics.toys import good_share, modes_covered, sliced_wasserstein
from sparring.runs.results import Result

RADIUS = 3.0  # standard deviations around a mode


def with_points(result: Result, points: Tensor, reference: ImageData, train: ImageData | None) -> Result:
    """A result with `sliced_wasserstein`, and for a mixture `modes_covered` and `good_share`; its floor with the same.

    A mode is covered by one point within three of the mixture's standard deviations, and a point is good that lies as
    near to a mode. In two dimensions that is 98.9 % of the real points.

    Args:
        result: of the points.
        points: [n, d, 1, 1].
        reference: real points.
        train: those that were trained on, n of which make the floor.
    """
    if result.floor is None or train is None:
        return replace(result, **numbers(points, reference))
    real = train.images(min(len(points), len(train)))
    return replace(result, **numbers(points, reference), floor=replace(result.floor, **numbers(real, reference)))


def numbers(points: Tensor, reference: ImageData) -> dict[str, Any]:
    """The numbers of points by their names in a result."""
    found: dict[str, Any] = {"sliced_wasserstein": sliced_wasserstein(points, reference.images())}
    if isinstance(reference, Mixture):
        radius = RADIUS * reference.std
        found["modes_covered"] = modes_covered(points, reference.centres, radius)
        found["good_share"] = good_share(points, reference.centres, radius)
    return found
