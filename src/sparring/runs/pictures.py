"""Images in [-1, 1] as 8-bit pictures and grids; points of the plane as a scatter plot."""

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

POINTS = (2, 1, 1)
"""The shape of an image that is a point: channel 0 is x, channel 1 is y."""


def image_grid(images: Tensor, columns: int | None = None, scale: int = 1) -> Image.Image:
    """A picture of images [n, C, H, W] in [-1, 1] (C 1 or 3), nearly square, with grey lines between.

    Points (C, H, W) = (2, 1, 1) are drawn as a scatter plot.

    Args:
        images: what is shown.
        columns: images beside each other.
        scale: enlarges each pixel, so that small images can be seen.
    """
    if tuple(images.shape[1:]) == POINTS:
        return scatter(images.flatten(1))
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = max(1, width // 32)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, dtype=np.uint8)
    for i, pixels in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + gap) + gap
        sheet[top : top + height, left : left + width] = pixels
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def scatter(points: Tensor, side: int = 512, limit: float = 1.25) -> Image.Image:
    """A picture of points [n, 2], x to the right and y upward; those beyond the limit lie on the edge.

    Args:
        points: what is drawn.
        side: pixels of the picture.
        limit: the largest coordinate that is shown.
    """
    picture = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(picture)
    places = (points.detach().float().cpu().nan_to_num(0).clamp(-limit, limit) / limit + 1) / 2 * (side - 1)
    radius = 3 if len(points) <= 200 else 1
    for x, y in places.tolist():
        draw.ellipse((x - radius, side - 1 - y - radius, x + radius, side - 1 - y + radius), fill=0)
    return picture


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255, clamped and rounded; NaN becomes 0."""
    return ((images.detach().float().cpu().nan_to_num(-1) + 1) * 127.5).clamp(0, 255).round().byte()
