"""What the columns of a table mean: images, labels, captions, filters and groups that must stay together."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import datasets


def image_column_of(features: "datasets.Features", asked: str | None) -> str:
    """The column of images that is asked for, or the first one; raises ValueError if there is none."""
    columns = [name for name, feature in features.items() if _holds_images(feature)]
    if asked is None and columns:
        return columns[0]
    if asked in columns and asked is not None:
        return asked
    there = f"columns with images: {', '.join(columns)}" if columns else "no column holds images"
    raise ValueError(f"`image_column={asked}`: {there}; all columns: {', '.join(features)}")


def _holds_images(feature: Any) -> bool:
    """An image column, or what one looks like if the file does not say so: bytes, perhaps with a path beside them."""
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature and set(feature) <= {"bytes", "path"} and _is_value(feature["bytes"], "binary")
    return isinstance(feature, datasets.Image) or _is_value(feature, "binary")


def is_text(feature: Any) -> bool:
    """Whether the cells of a column are strings, in whichever layout."""
    return _is_value(feature, "string")


def _is_value(feature: Any, kind: str) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.split("[")[0] in (
        kind,
        f"large_{kind}",
        f"{kind}_view",
    )


def _column(table: "datasets.Dataset", setting: str, name: str) -> list:
    if name not in table.column_names:
        raise ValueError(f"`{setting}` names the column {name}, which is not there: {', '.join(table.column_names)}")
    return table.select_columns([name])[:][name]


def rows_where(table: "datasets.Dataset", where: dict[str, str | int | list[str] | list[int]]) -> list[int]:
    """Numbers of the rows whose cells have these values; raises ValueError if none is left."""
    import datasets

    keep = list(range(len(table)))
    for name, value in where.items():
        cells = _column(table, "where", name)
        feature = table.features[name]
        if isinstance(feature, datasets.ClassLabel):
            cells = [cell if cell is None or cell < 0 else feature.int2str(cell) for cell in cells]
        allowed = list(value) if isinstance(value, list) else [value]
        keep = [row for row in keep if cells[row] in allowed]
        if not keep:
            there = sorted({str(cell) for cell in cells})
            raise ValueError(
                f"`where` leaves no row: {name} is never {' or '.join(map(str, allowed))}; "
                f"it is {', '.join(there[:10])}{' ...' if len(there) > 10 else ''}"
            )
    return keep


def labels_in(table: "datasets.Dataset", asked: str | None) -> tuple[Tensor | None, list[str] | None, int | None]:
    """(rows,) int64 with -1 if a label is missing, class names, number of classes; None without labels."""
    import datasets

    if asked is None:
        if not isinstance(table.features.get("label"), datasets.ClassLabel):
            return None, None, None
        asked = "label"
    cells = _column(table, "label_column", asked)
    feature = table.features[asked]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        return torch.tensor([-1 if cell is None else cell for cell in cells]), names, len(names)
    if all(cell is None or isinstance(cell, str) for cell in cells):
        names = sorted({cell for cell in cells if cell is not None})
        numbers = {name: number for number, name in enumerate(names)}
        return torch.tensor([-1 if cell is None else numbers[cell] for cell in cells]), names, len(names)
    if all(cell is None or (isinstance(cell, int) and not isinstance(cell, bool)) for cell in cells):
        numbers_or_none = torch.tensor([-1 if cell is None else cell for cell in cells])
        return numbers_or_none, None, int(numbers_or_none.max()) + 1
    raise ValueError(f"`label_column={asked}` holds {feature}; labels are class names or whole numbers from 0")


def captions_in(table: "datasets.Dataset", column: str) -> list[str | None]:
    """The captions of all rows, None if one is missing; raises ValueError for a column of anything else."""
    cells = _column(table, "text_column", column)
    if not is_text(table.features[column]):
        raise ValueError(f"`text_column={column}` holds {table.features[column]}; captions are strings")
    return cells


def groups_in(table: "datasets.Dataset", rows: list[int], column: str, separator: str | None) -> dict[int, str]:
    """The group of each of these rows: its cell in a column, up to the separator if one is given.

    Raises:
        ValueError: no such column, or a cell that is empty.
    """
    cells = _column(table, "group_column", column)
    for row in rows:
        if cells[row] is None:
            raise ValueError(f"`group_column={column}`: row {row} is in no group")
    return {row: str(cells[row]).split(separator)[0] if separator else str(cells[row]) for row in rows}
