"""From the bytes of one image file to pixels: what every data set that holds PNG, JPEG and the like shares."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Named, so that Pillow never starts a program to read a file (as it does for PostScript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")

Source = Path | bytes | None
"""Where one image's bytes are: a file, the bytes themselves, or nowhere."""


def check_settings(size: int | None, pad: int, channels: int | None, on_error: str) -> None:
    """Raises ValueError where a setting of a data set of image files is out of range."""
    if size is not None and size < 1:
        raise ValueError(f"`size={size}` must be at least 1, or left out to keep the images' own size")
    if pad < 0:
        raise ValueError(f"`pad={pad}` must not be negative")
    if channels not in (None, 1, 3):
        raise ValueError(f"`channels={channels}` must be 1 (grey) or 3 (RGB), or left out to keep what the images are")
    if on_error not in ("stop", "skip"):
        raise ValueError(f"`on_error={on_error}` must be stop or skip")


def decode_into(out: np.ndarray, source: Source, size: int | None, pad: int) -> None:
    """Writes an image into `out`, uint8 zeros (C, H, W): upright, grey or RGB, resized, framed.

    Raises:
        Exception: of any kind, as Pillow raises nearly anything on a broken file; `reason` puts it into words.
    """
    inner = out[:, pad : out.shape[1] - pad, pad : out.shape[2] - pad]
    colours, height, width = inner.shape
    with _open(source) as image:
        if image.mode != ("L" if colours == 1 else "RGB") or "transparency" in image.info:
            image = _converted(image, colours)
        image = _upright(image)
        if size is not None and image.size != (size, size):
            image = _square(image, size)
        if image.size != (width, height):
            raise ValueError(f"{image.width}x{image.height} pixels, others are {width}x{height}: set `size`")
        inner[:] = np.asarray(image).reshape(height, width, colours).transpose(2, 0, 1)


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def _open(source: Source) -> "Image":
    from PIL import Image

    if source is None:
        raise ValueError("no image bytes, and no file inside the data set")
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def header(source: Source) -> tuple[int, tuple[int, int]]:
    """Channels (1 or 3) and (width, height), without decoding."""
    with _open(source) as image:
        width, height = image.size
        turned = _has_orientation(image) and image.getexif().get(0x0112, 1) >= 5
        return 1 if image.mode in GREY_MODES else 3, (height, width) if turned else (width, height)


def _has_orientation(image: "Image") -> bool:
    return image.format in ("JPEG", "MPO")  # asking other formats would decode the whole image


def _upright(image: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if _has_orientation(image) else image


def _converted(image: "Image", channels: int) -> "Image":
    """The image in mode L or RGB: transparency on white, 16 bits cut to 8."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _square(image: "Image", size: int) -> "Image":
    """The centre square, resized with antialias."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or one_line(str(error)) or type(error).__name__
