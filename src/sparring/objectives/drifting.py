"""Drifting: where a set of points should go to become another set, by a kernel on their distances."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.networks.precision import at_least_float32

RADII = (0.02, 0.05, 0.2)
"""Of the kernel, as shares of the mean distance; the paper's."""


@torch.no_grad()
def drift(
    fake: Tensor, real: Tensor, radii: Sequence[float] = RADII, apart: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The drift V [G, n, d] of fake points, in units in which their mean distance is sqrt(d); without gradient.

    With `A = sqrt(softmax over z of -d/R * softmax over y of -d/R)`, for y among the fakes and z among both,

        V_R = sum over real z of A (sum of A over fakes) z - sum over fake z of A (sum of A over reals) z

    so that the coefficients of each point sum to 0: it is pulled to reals and pushed from other fakes, and does not
    change if all points move together. V is the sum of V_R over its root mean square. Source: "Generative Modeling via
    Drifting" (arXiv 2602.04770) and its official program.

    Args:
        fake: [G, n, d] groups of points.
        real: [G, m, d] real points of each group.
        radii: R.
        apart: [G, n, n + m] true for pairs of a fake and a fake or real that do not see each other; None: all do.

    Returns:
        V; the size of V before it is divided by it, a mean over the radii, [G]; and the unit of length [G, 1, 1].
    """
    z = torch.cat([fake, real], dim=1)
    n, dim = fake.shape[1:]
    distance = torch.cdist(fake, z, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance.mean((1, 2), keepdim=True).clamp(min=1e-8)
    unit = mean / dim**0.5
    unseen = torch.eye(n, z.shape[1], dtype=torch.bool, device=z.device)
    scaled = distance / mean + 100 * (unseen if apart is None else unseen | apart)
    total, sizes = torch.zeros_like(fake), []
    for radius in radii:
        near = -scaled / radius
        kernel = (near.softmax(2) * near.softmax(1)).sqrt().clamp(min=1e-6)
        if apart is not None:
            kernel = kernel.masked_fill(apart, 0.0)
        fakes, reals = kernel[:, :, :n], kernel[:, :, n:]
        with torch.autocast(fake.device.type, enabled=False):  # a small difference of large sums
            pulled = (reals * fakes.sum(2, keepdim=True)) @ real
            pushed = (fakes * reals.sum(2, keepdim=True)) @ fake
        moved = (pulled - pushed) / unit
        size = moved.square().mean((1, 2), keepdim=True).sqrt()
        sizes.append(size.flatten())
        total += moved / size.clamp(min=1e-8)
    return total, torch.stack(sizes).mean(0), unit


def drifting_loss(fake: Tensor, real: Tensor, group: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`mean |y - sg(y + V(y))|^2` of one feature, and the mean size of the drift before it was normalised.

    The gradient is `-2 V / (d unit)`. The value is about the square of the number of radii, wherever the points are.

    Args:
        fake: features [B, d] of generated images.
        real: features [B, d] of real ones.
        group: rows that are compared at once; a divisor of B.
        labels: [B] classes of both; only rows of the same class are compared. None: all are.
    """
    fake, real = (at_least_float32(x).reshape(len(x) // group, group, -1) for x in (fake, real))
    apart = None
    if labels is not None:
        told = labels.view(len(fake), group)
        apart = told[:, :, None] != told.repeat(1, 2)[:, None]
    moved, size, unit = drift(fake, real, apart=apart)
    scaled = fake / unit
    return (scaled - (scaled.detach() + moved)).square().mean(), size.mean()
