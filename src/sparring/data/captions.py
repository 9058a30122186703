"""Captions that lie beside image files: one metadata file for a folder, or one text file for each image."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

METADATA = ("metadata.jsonl", "metadata.csv")


def captions_beside(folder: Path, files: list[Path]) -> list[str | None]:
    """The caption of each image, None if there is none.

    They come from `metadata.jsonl` or `metadata.csv` in the folder, with the columns `file_name` and `text` (as
    `datasets` has it), or, if there is no such file, from a `.txt` of each image's name. Symbolic links are not
    followed.

    Args:
        folder: where the images are.
        files: their paths within it.

    Raises:
        ValueError: no captions at all, both kinds of metadata, or a file that cannot be read.
    """
    tables = [folder / name for name in METADATA if _is_own_file(folder / name)]
    if len(tables) > 1:
        raise ValueError(f"{folder} has {' and '.join(METADATA)}: keep the one with the captions")
    if tables:
        try:
            captions = dict(_rows(tables[0]))
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise ValueError(f"{tables[0]} cannot be read: {error}") from error
        return [captions.get(file) for file in files]
    texts = [_text(folder / file.with_suffix(".txt")) for file in files]
    if not any(texts):
        raise ValueError(
            f"`captions=True`: {folder} has no {' or '.join(METADATA)} (file_name, text), and no .txt beside an image"
        )
    return texts


def _rows(table: Path) -> Iterator[tuple[Path, str]]:
    """Image and caption of each line of a metadata file."""
    with table.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(_json(lines) if table.suffix == ".jsonl" else csv.DictReader(lines), 1):
            name, text = (row.get("file_name"), row.get("text")) if isinstance(row, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(text, str):
                raise ValueError(f"{table}: row {number} needs `file_name` and `text`, both of them strings")
            yield Path(name), text


def _json(lines: Iterator[str]) -> Iterator[object]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8-sig").strip() if _is_own_file(file) else None
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _is_own_file(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()
