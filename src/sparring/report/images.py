"""Embeds sample grids as data URIs within a budget of bytes, and picks the training steps that are shown."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

PLAIN_BYTES = 48_000  # a PNG up to this size is embedded as it is; a larger one as JPEG
MAX_SIDE = 768
PIXEL_ART_SIDE = 400  # grids narrower than this are enlarged without smoothing


@dataclass(frozen=True)
class Embedded:
    """An image inside the page: data URI, size in pixels, and whether to enlarge it without smoothing."""

    uri: str
    width: int
    height: int
    pixelated: bool


def embed(file: Path) -> Embedded | None:
    """The image as a data URI; None when it cannot be read."""
    try:
        with Image.open(file) as opened:
            opened.load()
            image = opened.copy()
        content = file.read_bytes()
    except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for broken PNG chunks
        return None
    width, height = image.size
    kind = "png"
    if len(content) > PLAIN_BYTES or opened.format != "PNG":
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=88)
        content, kind = buffer.getvalue(), "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Embedded(uri, width, height, max(width, height) < PIXEL_ART_SIDE)


def spread_out(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly by position, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def within_budget(grids: Sequence[dict[int, Embedded]], budget: int, most: int) -> list[dict[int, Embedded]]:
    """The same grids, thinned to fewer steps until their data URIs stay within `budget` bytes (two steps stay)."""
    for count in range(most, 1, -1):
        kept = [{step: grid[step] for step in spread_out(list(grid), count)} for grid in grids]
        if count == 2 or sum(len(image.uri) for grid in kept for image in grid.values()) <= budget:
            return kept
    raise AssertionError("`most` must be at least 2")
