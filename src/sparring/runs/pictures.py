"""Images in [-1, 1] as 8-bit pictures and grids; points of the plane as a scatter plot."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

POINTS = (2, 1, 1)
"""The shape of an image that is a point: channel 0 is x, channel 1 is y."""

LIMIT = 1.25
"""The largest coordinate of a point that is shown."""

GENERATED, REAL, GRID = (31, 90, 166), (196, 196, 196), (232, 232, 232)
FONT, MARGIN = 16, 8  # of a contact sheet, in pixels
NEAREST = Image.Resampling.NEAREST


def image_grid(images: Tensor, columns: int | None = None, scale: int = 1, real: Tensor | None = None) -> Image.Image:
    """A picture of images [n, C, H, W] in [-1, 1] (C 1 or 3), nearly square, with grey lines between.

    Points (C, H, W) = (2, 1, 1) are drawn as a scatter plot.

    Args:
        images: what is shown.
        columns: images beside each other.
        scale: enlarges each pixel, so that small images can be seen.
        real: real points that points are drawn over.
    """
    if tuple(images.shape[1:]) == POINTS:
        return scatter(images.flatten(1), None if real is None else real.flatten(1))
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = max(1, width // 32)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, dtype=np.uint8)
    for i, pixels in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + gap) + gap
        sheet[top : top + height, left : left + width] = pixels
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])
    return picture.resize((picture.width * scale, picture.height * scale), NEAREST)


def scatter(points: Tensor, real: Tensor | None = None, side: int = 512) -> Image.Image:
    """A picture of points [n, 2] in blue, x to the right and y upward; those beyond `LIMIT` lie on the edge.

    Args:
        points: what is drawn.
        real: real points [m, 2], in grey behind them.
        side: pixels of the picture.
    """
    fine = 2 * side  # drawn at twice the size, so that the discs are smooth
    picture = Image.new("RGB", (fine, fine), "white")
    draw = ImageDraw.Draw(picture)
    draw.line((0, fine / 2, fine, fine / 2), fill=GRID, width=2)
    draw.line((fine / 2, 0, fine / 2, fine), fill=GRID, width=2)
    draw_points(picture, {REAL: real, GENERATED: points})
    return picture.resize((side, side), Image.Resampling.BOX)


def draw_points(picture: Image.Image, points: dict[tuple[int, int, int], Tensor | None]) -> None:
    """Draws points [n, 2] as discs of a colour into a square picture of the plane, the last ones on top."""
    draw, side = ImageDraw.Draw(picture), picture.width
    for colour, some in points.items():
        if some is None:
            continue
        places = (some.detach().float().cpu().nan_to_num(0).clamp(-LIMIT, LIMIT) / LIMIT + 1) / 2 * (side - 1)
        radius = (7 if len(some) <= 200 else 4) * side / 1024
        for x, y in places.tolist():
            y = side - 1 - y
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def write_label(picture: Image.Image, label: str) -> None:
    """Writes a few words into the corner of a picture."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((8, 6), label, font_size=16)
    draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill="white")
    draw.text((8, 6), label, fill="black", font_size=16)


def contact_sheet(cells: dict[tuple[str, str], Image.Image]) -> Image.Image:
    """Pictures in rows and columns with their names: `cells[row, column]`, in the order in which they first come."""
    rows, columns = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    width, height = (max(size) for size in zip(*(picture.size for picture in cells.values()), strict=True))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max(round(draw.textlength(row, font_size=FONT)) for row in rows) + 2 * MARGIN
    top = FONT + 2 * MARGIN
    sheet = Image.new("RGB", (left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, column in enumerate(columns):
        draw.text((left + number * (width + MARGIN), MARGIN), column, fill="black", font_size=FONT)
    for number, row in enumerate(rows):
        draw.text((MARGIN, top + number * (height + MARGIN)), row, fill="black", font_size=FONT)
    for (row, column), picture in cells.items():
        place = (left + columns.index(column) * (width + MARGIN), top + rows.index(row) * (height + MARGIN))
        sheet.paste(picture.convert("RGB"), place)
    return sheet


def training_frames(samples: Path) -> list[Image.Image]:
    """The pictures of a run's samples/ in the order of its steps, each with its step in the corner.

    The field of a discriminator stands beside the samples of its step.

    Raises:
        ValueError: there are fewer than two.
    """
    files = sorted((file for file in samples.glob("*.png") if file.stem.isdigit()), key=lambda file: int(file.stem))
    if len(files) < 2:
        raise ValueError(
            f"{samples} has {len(files)} pictures and an animation needs two: train with --trainer.sample_every 100"
        )
    frames = []
    for file in files:
        with Image.open(file) as opened:
            frame = opened.convert("RGB")
        frame = frame.resize((frame.width * (scale := max(1, 512 // frame.width)), frame.height * scale), NEAREST)
        write_label(frame, f"step {int(file.stem)}")
        if (beside := file.with_stem(f"field-{file.stem}")).is_file():
            with Image.open(beside) as opened:
                field = opened.convert("RGB").resize((opened.width * frame.height // opened.height, frame.height))
            both = Image.new("RGB", (frame.width + field.width, frame.height))
            both.paste(frame, (0, 0))
            both.paste(field, (frame.width, 0))
            frame = both
        frames.append(frame)
    return frames


def save_gif(frames: list[Image.Image], out: Path) -> None:
    """Writes an animation of about two seconds that rests on its last frame and starts again."""
    milliseconds = [max(40, 2000 // len(frames))] * (len(frames) - 1) + [2000]
    out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255, clamped and rounded; NaN becomes 0."""
    return ((images.detach().float().cpu().nan_to_num(-1) + 1) * 127.5).clamp(0, 255).round().byte()
