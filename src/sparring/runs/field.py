"""The field of a discriminator of points: its logits over the plane, as a heat map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from sparring.runs.pictures import LIMIT, draw_points, write_label

LOW, MIDDLE, HIGH = (222, 119, 32), (255, 255, 255), (64, 160, 150)
GENERATED, REAL = (20, 20, 20), (150, 150, 150)
GAP = 6


def plane(side: int) -> Tensor:
    """The points [side * side, 2, 1, 1] at the middle of each cell of the shown plane, from above row by row."""
    line = (2 * (torch.arange(side) + 0.5) / side - 1) * LIMIT
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)[:, :, None, None]


@dataclass(frozen=True)
class Field:
    """The logits of a discriminator over the plane.

    Attributes:
        caption: what it takes beside the point; "" for nothing.
        logits: [side, side] at the points of `plane(side)`.
        real: [m] at the real points that are drawn with it.
        fake: [n] at the generated ones.
        x_t: [2] the noisy point that it takes, if it does: neither real nor generated points are drawn then.
    """

    caption: str
    logits: Tensor
    real: Tensor
    fake: Tensor
    x_t: Tensor | None = None


def field_picture(fields: Sequence[Field], points: Tensor, real: Tensor, side: int = 448) -> Image.Image:
    """Heat maps of fields, nearly in a square, with real points [m, 2] in grey and generated ones [n, 2] in black.

    White is midway between the mean logits of real and of generated points, because the logits of many objectives have
    no zero of their own; full green is as far above as nearly all logits of the points reach, full orange as far below.

    Args:
        fields: what is drawn.
        points: generated points.
        real: real points.
        side: pixels of one heat map.
    """
    columns = math.ceil(math.sqrt(len(fields)))
    rows = math.ceil(len(fields) / columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), "white")
    for number, field in enumerate(fields):
        place = (number % columns * (side + GAP), number // columns * (side + GAP))
        sheet.paste(_heat_map(field, points, real, side), place)
    return sheet


def _heat_map(field: Field, points: Tensor, real: Tensor, side: int) -> Image.Image:
    middle = (field.real.mean() + field.fake.mean()) / 2
    apart = (torch.cat([field.real, field.fake]) - middle).abs()
    reach = apart.quantile(0.95).clamp_min(1e-6)
    share = ((field.logits - middle) / reach).clamp(-1, 1).nan_to_num(0)[..., None].cpu()
    ends = torch.where(share > 0, torch.tensor(HIGH), torch.tensor(LOW)).float()
    pixels = share.abs() * ends + (1 - share.abs()) * torch.tensor(MIDDLE)
    fine = 2 * side
    picture = Image.fromarray(pixels.round().byte().numpy()).resize((fine, fine), Image.Resampling.BILINEAR)
    shown = {REAL: real, GENERATED: points} if field.x_t is None else {GENERATED: field.x_t[None]}
    draw_points(picture, dict(shown))
    picture = picture.resize((side, side), Image.Resampling.BOX)
    caption = f"{field.caption}  " if field.caption else ""
    write_label(picture, f"{caption}{middle - reach:.3g} to {middle + reach:.3g}")
    return picture
