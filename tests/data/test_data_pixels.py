"""From the bytes of an image file to pixels: upright in every format, ranges that are known, formats of all endings."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, features

from sparring.data import ImageFolder, pixels

T = Image.Transpose
STORED = {
    1: None,
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_90,
    7: T.TRANSVERSE,
    8: T.ROTATE_270,
}
"""How a picture lies in a file whose orientation tag says 1 to 8."""
MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("L", "RGB", "RGBA", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("L", "RGB", "RGBA", "CMYK", "P", "1", "I;16"),
    "AVIF": ("RGB", "RGBA"),
}
CASES = [(kind, mode) for kind, modes in MODES.items() for mode in modes]


def stored(orientation: int, mode: str) -> Image.Image:
    """A 16x8 picture with a white left quarter, as a camera held that way stores it."""
    values = np.zeros((8, 16), np.uint8)
    values[:, :4] = 255
    image = Image.fromarray(values)
    if STORED[orientation] is not None:
        image = image.transpose(STORED[orientation])
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    return image.convert(mode) if mode in ("L", "1") else image.convert("RGB").convert(mode)


def saved(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, quality=100)
    return buffer.getvalue()


def check_upright(source: bytes) -> None:
    assert pixels.header(source)[1] == (16, 8)
    for colours in (1, 3):
        out = np.zeros((colours, 8, 16), np.uint8)
        pixels.decode_into(out, source, None, 0)
        assert (out[:, :, :3] > 200).all()
        assert (out[:, :, 5:] < 60).all()


@pytest.mark.parametrize(("kind", "mode"), CASES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_in_every_format_and_conversion(kind, mode, orientation):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    check_upright(saved(stored(orientation, mode), kind, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_that_says_it_after_its_pixels(orientation):
    """Some programs write EXIF last; Pillow sees it only once the image is decoded."""
    whole = saved(stored(orientation, "RGB"), "PNG", orientation)
    at = whole.index(b"eXIf") - 4
    chunk = whole[at : at + 12 + int.from_bytes(whole[at : at + 4], "big")]
    late = whole.replace(chunk, b"")
    end = late.index(b"IEND") - 4
    check_upright(late[:end] + chunk + late[end:])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_in_xmp(orientation):
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    body = b"XML:com.adobe.xmp" + bytes(5) + text
    chunk = len(body).to_bytes(4, "big") + b"iTXt" + body + zlib.crc32(b"iTXt" + body).to_bytes(4, "big")
    buffer = io.BytesIO()
    stored(orientation, "L").save(buffer, "PNG")
    whole = buffer.getvalue()
    check_upright(whole[:33] + chunk + whole[33:])


def test_headers_are_read_without_decoding(monkeypatch):
    source = saved(stored(6, "RGB"), "PNG", 6)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert pixels.header(source) == (3, (16, 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(16).reshape(4, 4).astype(np.int32), "pixels of 32 or of signed 16 bits, whose range is unknown"),
        (np.arange(16).reshape(4, 4).astype(np.float32), "floating-point pixels, whose range is unknown"),
    ],
)
def test_ranges_that_nobody_knows_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "0.tif")
    with pytest.raises(ValueError, match=rf"1 of 1 images .* cannot be used: 0.tif \({message}\); nothing is left"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [(258, 12, r"pixels of \(?12,?\)? bits, whose range is unknown"), (262, 0, "16-bit pixels of which 0 is white")],
)
def test_a_tiff_of_other_bits_or_turned_colours_is_refused(tmp_path, tag, value, message):
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "0.tif")
    whole = bytearray((tmp_path / "0.tif").read_bytes())
    at = whole.index(tag.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
    whole[at + 8 : at + 10] = value.to_bytes(2, "little")
    (tmp_path / "0.tif").write_bytes(whole)
    with pytest.raises(ValueError, match=message):
        ImageFolder(str(tmp_path))


def test_sixteen_bits_of_a_portable_map(tmp_path):
    (tmp_path / "0.pgm").write_bytes(b"P5 3 1 65535\n" + np.array([0, 257 * 7, 65535], ">u2").tobytes())
    out = np.zeros((1, 1, 3), np.uint8)
    pixels.decode_into(out, tmp_path / "0.pgm", None, 0)
    assert out[0, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("ending", ["jfif", "jpe", "tga", "avif", "JPG", "tiff", "webp", "gif", "ppm", "bmp"])
def test_all_endings_that_pillow_reads(tmp_path, ending):
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(tmp_path / f"0.{ending}", **{"quality": 100})
    data = ImageFolder(str(tmp_path), size=2)
    assert abs((data.images().mean() + 1) * 127.5 - 200) < 2


def test_one_line_for_very_large_images(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    for number in range(3):
        Image.fromarray(np.zeros((1200, 1000 if number else 10), np.uint8)).save(tmp_path / f"{number}.png")
    assert len(ImageFolder(str(tmp_path), size=2)) == 3
    assert [str(warning.message) for warning in recwarn] == [
        f"2 of 3 images of {tmp_path.name} have more than 1 megapixels, such as 1.png (1): reading them takes time and "
        "memory"
    ]
