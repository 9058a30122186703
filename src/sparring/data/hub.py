"""Image data sets in the formats of the `datasets` library: parquet files, saved folders, the Hugging Face hub."""

import glob
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sparring.data.columns import captions_in, groups_in, image_column_of, labels_in, rows_where
from sparring.data.decode import DecodedImages, check_same_kind, split_off
from sparring.data.files import UNREADABLE, Found, image_files, some_of, splits_in, told_of_splits
from sparring.data.hub_access import without_waiting
from sparring.data.pixels import Source, one_line

if TYPE_CHECKING:
    import datasets


class HubData(DecodedImages):
    """A data set that `datasets` reads: parquet files, a folder (saved, or laid out as on the hub), or a hub name.

    Only images that lie inside the data set are read: a table's file paths that lead elsewhere count as broken images.
    How an image becomes a tensor is said at `DecodedImages`.

    Args:
        path: one parquet file, a pattern such as "shards/*.parquet", a folder, or a name on the hub.
        split: which split; parquet files are one split called train.
        image_column: None: the first column that holds images.
        label_column: a column of class names or numbers. None: a column called label, if it is one of class names.
        text_column: a column of captions, which then take the place of labels.
        size: width and height to resize to (centre square). None: images stay as they are and must all have one size.
        pad: black pixels added on each side, after resizing: Fashion-MNIST is 28x28, `pad=2` makes it 32x32.
        channels: 1 grey, 3 RGB, None: grey when all images are grey, RGB otherwise.
        limit: at most so many rows, chosen by a fixed permutation; a larger limit keeps the rows of a smaller one.
        where: keep the rows whose column has this value (or one of these), such as {"kind": "plain"}.
        flip: turn half of the training images left to right.
        on_error: "stop" at images that cannot be used, or "skip" them with a warning.
        holdout: the images to evaluate against: another parquet file (or pattern), or a split. None: the split test or
            validation, if there is one.
        holdout_share: for sets without such a split: about this share of the groups is held out and not trained on.
        group_column: rows with the same value here stay on the same side. None: each row is a group.
        group_separator: only what stands before it in that column names the group: of "1f469-1f3fb" and "1f469" with
            "-" both are in the group 1f469.

    Raises:
        ValueError: nothing there, or not readable; an unknown split or column; no row left by `where` or on one side of
            the holdout; labels missing; settings that exclude each other; images that cannot be used (counted and
            named).
    """

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        image_column: str | None = None,
        label_column: str | None = None,
        text_column: str | None = None,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        limit: int | None = None,
        where: dict[str, str | int | list[str] | list[int]] | None = None,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout: str | None = None,
        holdout_share: float | None = None,
        group_column: str | None = None,
        group_separator: str | None = None,
    ):
        import datasets

        if limit is not None and limit < 1:
            raise ValueError(f"`limit={limit}` must be at least 1, or left out for all rows")
        if label_column is not None and text_column is not None:
            raise ValueError(
                f"`label_column={label_column}` and `text_column={text_column}`: a network takes one of them"
            )
        if holdout_share is None and (group_column or group_separator):
            raise ValueError(f"`group_column={group_column}` belongs to `holdout_share`, such as 0.1")
        if group_separator is not None and group_column is None:
            raise ValueError(f"`group_separator={group_separator}` belongs to `group_column`, which says what it cuts")
        if holdout_share is not None and holdout is not None:
            raise ValueError(f"`holdout_share={holdout_share}` and `holdout={holdout}`: give one of them")
        path = os.path.expanduser(path)
        holdout = holdout if holdout is None else os.path.expanduser(holdout)
        self.path = path
        self.split = split
        folders = _images_by_split(path)
        splits = _open_splits(path, folders)
        if split not in splits:
            raise ValueError(f"`split={split}` is not in {path}, which has: {', '.join(splits)}")
        self._settings: dict[str, Any] = {"label_column": label_column, "text_column": text_column, "where": where}
        self._settings |= {"size": size, "pad": pad}
        self._holdout = holdout
        if holdout is None and holdout_share is None:
            self._holdout = next((name for name in ("test", "validation") if name in splits and name != split), None)
        if split == "train" and len(folders) > 1:
            own = self._holdout if self._holdout in folders else None
            places = {name: place for name, (place, _) in folders.items()}
            warnings.warn(told_of_splits(_name(path, split), places, own), stacklevel=2)
        table = splits[split]
        if len(table) == 0:
            raise ValueError(f"split {split} of {path} has no rows")
        image_column = image_column_of(table.features, image_column)
        rows = rows_where(table, where or {})
        held_out: list[int] = []
        if holdout_share is not None:
            groups = str if group_column is None else groups_in(table, rows, group_column, group_separator).__getitem__
            rows, held_out = split_off(rows, groups, holdout_share)
        if limit is not None:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:limit]
            rows = [rows[i] for i in order.sort().values.tolist()]
        if split in folders and text_column is not None and {*table.column_names} <= {image_column, "label"}:
            raise ValueError(
                f"`text_column={text_column}`: {path} holds images without captions: write a metadata.jsonl beside "
                "them (file_name, text), or, with a .txt beside each image, give --data FOLDER --data.captions true"
            )
        captions = None if text_column is None else captions_in(table, text_column)
        labels, class_names, num_classes = labels_in(table, label_column) if captions is None else (None, None, None)
        used = rows + held_out
        if labels is not None and (missing := int((labels[used] < 0).sum())):
            raise ValueError(f"{missing} of {len(used)} rows of {path} have no label")
        self._folder = _root(path)
        self._table = table.select_columns([image_column])
        if isinstance(table.features[image_column], datasets.Image):
            self._table = self._table.cast_column(image_column, datasets.Image(decode=False))
        if split in folders:
            _warn_of_left_out(_name(path, split), self._table[image_column], *folders[split])
        super().__init__(
            name=_name(path, split),
            rows=rows,
            labels=labels,
            captions=captions,
            class_names=class_names,
            num_classes=num_classes,
            size=size,
            pad=pad,
            channels=channels,
            flip=flip,
            on_error=on_error,
            held_out=held_out,
        )

    def holdout(self) -> "HubData | None":
        if self._holdout is None:
            return self._other_side()
        elsewhere = self._holdout.endswith(".parquet")
        other = HubData(
            self._holdout if elsewhere else self.path,
            split="train" if elsewhere else self._holdout,
            image_column=self._table.column_names[0],
            channels=1 if self.image_shape[0] == 1 else 3,
            on_error=self.on_error,
            **self._settings,
        )
        check_same_kind(self, other)
        return other

    def _sources(self, rows: Sequence[int]) -> list[Source]:
        cells = self._table[list(rows)][self._table.column_names[0]]
        return [self._source(cell) for cell in cells]

    def _source(self, cell: dict[str, Any] | bytes | None) -> Source:
        if cell is None or isinstance(cell, bytes):
            return cell
        if cell["bytes"] is not None:
            return cell["bytes"]
        if cell.get("path") is None or self._folder is None:
            return None
        file = Path(cell["path"]).resolve()
        return file if file.is_relative_to(self._folder) and file.is_file() else None

    def _label_of_row(self, row: int) -> str:
        file = _file_of(self._table[row][self._table.column_names[0]])
        return f"row {row}" if file is None else f"row {row}, {os.path.relpath(file, self._folder or '.')}"

    def identity(self) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.compute as pc

        sizes: list[int | None] = []
        for batch in self._table.with_format("arrow").iter(1000):  # whose bytes are not touched
            cells = batch.column(0)
            within = pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells
            if pa.types.is_binary_view(within.type):  # which arrow does not measure
                within = within.cast(pa.large_binary())
            sizes += pc.binary_length(within).to_pylist()
        for row in self._rows:
            file = None if sizes[row] is not None else _file_of(self._table[row][self._table.column_names[0]])
            yield f"row {row} {sizes[row]}" if file is None else f"{self._label_of_row(row)} {os.path.getsize(file)}"


TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip")


def _open_splits(path: str, folders: "dict[str, tuple[Path, Found]]") -> "dict[str, datasets.Dataset]":
    """All splits by name; raises ValueError if nothing is there or it cannot be read.

    Args:
        path: as `HubData` takes it.
        folders: of a folder of image files, where the images of each split lie.
    """
    import datasets

    local = Path(path)
    files: list[str] = []
    if path.endswith(".parquet"):
        files = [path] if local.is_file() else sorted(glob.glob(path))
        if not files:
            raise ValueError(f"`path={path}`: no such parquet file")
    elif not local.exists() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise ValueError(f"`path={path}` is not there: give a parquet file, a folder, or the name of a hub data set")
    here, answers = local.exists() or bool(files), True
    try:
        with _quiet(here):
            if files:
                return dict(datasets.load_dataset("parquet", data_files={"train": files}))
            if (local / "dataset_dict.json").is_file():
                return dict(datasets.load_from_disk(path))
            if (local / "state.json").is_file():
                return {"train": datasets.load_from_disk(path)}
            if folders:  # with the files named, names of files are no splits and a README has no say
                return _image_tables(local, folders)
            with without_waiting(path) as answers:
                return dict(datasets.load_dataset(str(local.resolve()) if local.is_dir() else path))
    except Exception as error:  # the library raises its own errors, those of pyarrow, of the network and of the disk
        cause = error.__cause__ or error
        if not answers:
            raise ValueError(
                f"`path={path}` is neither a file or folder here nor downloaded, and the hub cannot be reached: give a "
                f"parquet file or a folder, or download it where there is a network (hf download {path} --repo-type "
                "dataset)"
            ) from error
        what = "cannot be read" if here else "is neither a file or folder here nor readable on the hub"
        raise ValueError(f"`path={path}` {what}: {one_line(str(cause))[:300]}") from error


def _image_tables(folder: Path, folders: dict[str, tuple[Path, Found]]) -> "dict[str, datasets.Dataset]":
    """The images of each split, with the columns of metadata files in the splits' folders or above them."""
    import datasets

    places = {split: place for split, (place, _) in folders.items()}
    # the name of a split is no class, which `datasets` would make of images that lie right in its folder
    no_classes = len(places) > 1 and any(len(file.parts) == 1 for _, found in folders.values() for file in found.images)
    above = [glob.escape(str(file)) for file in folder.resolve().glob("metadata.*")]
    empty = [
        file for place in (folder, *places.values()) for file in place.glob("metadata.*") if file.stat().st_size < 3
    ]
    if empty:
        raise ValueError(f"{empty[0]} is empty")
    patterns = {split: [f"{glob.escape(str(place))}/**", *above] for split, place in places.items()}
    tables = dict(datasets.load_dataset("imagefolder", data_files=patterns, drop_labels=no_classes or None))
    if len(tables) > 1 and above:  # which list the images of all splits
        for split, table in tables.items():
            cells = table.cast_column("image", datasets.Image(decode=False))["image"]
            inside = [row for row, cell in enumerate(cells) if Path(cell["path"]).is_relative_to(places[split])]
            tables[split] = table.select(inside)
    return tables


def _images_by_split(path: str) -> dict[str, tuple[Path, Found]]:
    """The folder of each split and what lies in it, for a folder of image files; empty for anything else."""
    folder = Path(path)
    if not folder.is_dir() or any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return {}
    splits = {split: place.resolve() for split, place in splits_in(folder).items()} or {"train": folder.resolve()}
    found = {split: (place, image_files(place)) for split, place in splits.items()}
    depth = ("*", "*/*")
    tables = sum(file.suffix in TABLES and file.stem != "metadata" for part in depth for file in folder.glob(part))
    return found if tables < sum(len(there.images) for _, there in found.values()) else {}


def _file_of(cell: dict[str, Any] | bytes | None) -> str | None:
    """Where the image of a cell lies if not in the cell itself."""
    return cell.get("path") if isinstance(cell, dict) and cell["bytes"] is None else None


def _warn_of_left_out(name: str, cells: Iterable[Any], place: Path, found: Found) -> None:
    """Counts the images of a folder that are no rows of its table."""
    listed_by_metadata = any(any(folder.glob("metadata.*")) for folder in (place, place.parent))
    why = "that its metadata does not list" if listed_by_metadata else "of a kind that `datasets` does not take"
    listed = {os.path.realpath(file) for cell in cells if (file := _file_of(cell)) is not None}
    unlisted = [file for file in found.images if str(place / file) not in listed]
    parts = [some_of(unlisted, why), some_of(found.unreadable, UNREADABLE)]
    if any(parts):
        warnings.warn(f"images of {name} are left out: {', '.join(part for part in parts if part)}", stacklevel=3)


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """No progress bars for local files (downloads keep theirs), and no log beside the one line about what is wrong."""
    import datasets

    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    if local and shown:
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if local and shown:
            datasets.enable_progress_bars()


def _root(path: str) -> Path | None:
    """The folder that file paths in the table may lead to: none for parquet, the download cache for the hub."""
    if path.endswith(".parquet"):
        return None
    if Path(path).is_dir():
        return Path(path).resolve()
    import datasets

    return Path(datasets.config.HF_CACHE_HOME).expanduser().resolve()


def _name(path: str, split: str) -> str:
    stem = Path(path).stem if path.endswith(".parquet") else Path(path).name
    return stem if split == "train" else f"{stem}:{split}"
