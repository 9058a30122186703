"""From the bytes of one image file to pixels: what every data set that holds PNG, JPEG and the like shares."""

import io
import mimetypes
import os
import struct
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF", "MPO", "TGA")
"""What Pillow may read: named, so that it never starts a program (as it does for PostScript). TGA, which nothing inside
marks, is read from files of that ending only; HEIF once the package `pillow-heif` has registered itself."""
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")
ORIENTATION, TIFF_BITS, TIFF_COLOURS = 274, 258, 262
"""Numbers of tags: EXIF's orientation, TIFF's bits per sample and whether 0 is black (1) or white (0)."""

Source = Path | bytes | None
"""Where one image's bytes are: a file, the bytes themselves, or nowhere."""


def check_settings(size: int | None, pad: int, channels: int | None, on_error: str) -> None:
    """Raises ValueError if a setting of a data set of image files is out of range."""
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
    with open_image(source) as opened:
        image = _in_mode(_upright(opened), colours)
        if size is not None and image.size != (size, size):
            image = _square(image, size)
        if image.size != (width, height):
            raise ValueError(f"{image.width}x{image.height} pixels, others are {width}x{height}: set `size`")
        inner[:] = np.asarray(image).reshape(height, width, colours).transpose(2, 0, 1)


def pixels_of(image: "Image", channels: int | None) -> np.ndarray:
    """uint8 (C, H, W) of an open image: upright, grey or RGB; with None, grey if the image is grey."""
    colours = channels or (1 if image.mode in GREY_MODES else 3)
    image = _in_mode(_upright(image), colours)
    return np.array(image).reshape(image.height, image.width, colours).transpose(2, 0, 1)


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def readable_suffixes() -> tuple[str, ...]:
    """Endings of the files that Pillow reads here, in lower case."""
    from PIL import Image

    Image.init()
    return tuple(sorted(ending for ending, name in Image.EXTENSION.items() if name in FORMATS and name in Image.OPEN))


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image, readable or not."""
    from PIL import Image

    ending = os.path.splitext(name)[1].lower()
    kind = mimetypes.guess_type(name)[0] or ""
    return ending in Image.registered_extensions() or kind.startswith("image/") or ending in (".heic", ".heif", ".jxl")


def open_image(source: Source) -> "Image":
    """An image whose header is read; Pillow's warning about large ones is left to who knows the file's name."""
    from PIL import Image

    if source is None:
        raise ValueError("no image bytes, and no file inside the data set")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN and (name != "TGA" or _is_tga(source))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    try:
        _check_range(image)
    except ValueError:
        image.close()
        raise
    return image


def _is_tga(source: Source) -> bool:
    from PIL import Image

    return isinstance(source, Path) and Image.EXTENSION.get(source.suffix.lower()) == "TGA"


def _check_range(image: "Image") -> None:
    """Raises ValueError if nothing says which numbers are black and white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("pixels of 32 or of signed 16 bits, whose range is unknown")
    if image.mode.startswith("I;16") and image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(TIFF_BITS) not in (16, (16,)):
            raise ValueError(f"pixels of {tags.get(TIFF_BITS)} bits, whose range is unknown")
        if tags.get(TIFF_COLOURS) == 0:
            raise ValueError("16-bit pixels of which 0 is white")


def header(source: Source) -> tuple[int, tuple[int, int]]:
    """Channels (1 or 3) and (width, height), without decoding."""
    with open_image(source) as image:
        width, height = image.size
        turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns TIFF, and its size, itself
        return 1 if image.mode in GREY_MODES else 3, (height, width) if turned else (width, height)


def _orientation(image: "Image") -> int:
    """How the camera was held, 1 to 8 (EXIF tag 274); does not decode the image."""
    from PIL import Image

    if image.format == "PNG":
        file: Any = image.fp  # type: ignore[attr-defined]
        if "exif" not in image.info and _says_more_after_pixels(file):
            image.load()
        return Image.Image.getexif(image).get(ORIENTATION, 1)  # that of PNG would decode the image in any case
    return image.getexif().get(ORIENTATION, 1)


def _says_more_after_pixels(file: IO[bytes]) -> bool:
    """Whether a PNG file, open at its first pixels, has chunks with EXIF or text behind them."""
    before = file.tell()
    file.seek(8)
    try:
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind in (b"eXIf", b"zTXt", b"iTXt") and file.tell() > before:
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(before)


def _upright(image: "Image") -> "Image":
    """The image as the camera saw it. Asked before anything else: conversions lose the tag."""
    from PIL import ImageOps

    image.load()
    return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _in_mode(image: "Image", channels: int) -> "Image":
    """The image in mode L or RGB."""
    plain = image.mode == ("L" if channels == 1 else "RGB") and "transparency" not in image.info
    return image if plain else _converted(image, channels)


def _converted(image: "Image", channels: int) -> "Image":
    """The image in mode L or RGB: transparency on white, 16 bits cut to 8."""
    from PIL import Image

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
