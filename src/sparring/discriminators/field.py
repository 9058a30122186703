"""What a discriminator of points makes of the plane, for the pictures of a run."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sparring.discriminators.discriminator import Discriminator, Given
from sparring.networks.modes import eval_mode
from sparring.runs.field import Field, plane

SIDE = 96


@torch.no_grad()
def fields_of(discriminator: Discriminator, givens: Mapping[str, Given], points: Tensor, real: Tensor) -> list[Field]:
    """The fields of a discriminator, one for each `Given`; nothing of it changes.

    Args:
        discriminator: of points.
        givens: what it takes beside a point, one row each, by the caption of the picture.
        points: generated points [n, 2, 1, 1], at which its logits set the colours, too.
        real: real points [m, 2, 1, 1].
    """
    cells = plane(SIDE).to(points)
    x = torch.cat([cells, real.to(points), points])
    found = []
    with eval_mode(discriminator):
        for caption, given in givens.items():
            for own, logits in discriminator.field(x, repeated(given, len(x))).items():
                on_plane, on_real, on_fake = logits.float().cpu().split([len(cells), len(real), len(points)])
                words = ", ".join(filter(None, (caption, own)))
                x_t = None if given.x_t is None else given.x_t.flatten().cpu()
                found.append(Field(words, on_plane.view(SIDE, SIDE), on_real, on_fake, x_t))
    return found


def repeated(given: Given, n: int) -> Given:
    """One row of labels, times and noisy images, n times."""
    rows = {name: getattr(given, name) for name in ("labels", "t", "x_t")}
    return replace(given, **{name: None if x is None else x.expand(n, *x.shape[1:]) for name, x in rows.items()})
