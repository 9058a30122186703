"""Images in [-1, 1] as 8-bit pictures and grids."""

import numpy as np
from PIL import Image
from torch import Tensor


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """A picture of images [n, C, H, W] in [-1, 1] (C 1 or 3), nearly square, with grey lines between."""
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = max(1, width // 32)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, dtype=np.uint8)
    for i, pixels in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + gap) + gap
        sheet[top : top + height, left : left + width] = pixels
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255, clamped and rounded; NaN becomes 0."""
    return ((images.detach().float().cpu().nan_to_num(-1) + 1) * 127.5).clamp(0, 255).round().byte()
