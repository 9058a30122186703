"""Shards: parquet and tar files of which single groups of rows are read, without going through all of them."""

import glob
import hashlib
import os
import tarfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter
from typing import IO, Any

from sparring.data.columns import image_column_of, is_text
from sparring.data.files import UNREADABLE, some_of
from sparring.data.pixels import is_image_name, one_line

REMOTE = ("hf", "s3", "gs")
"""Where parquet shards may lie but here; fsspec reads them."""
TAR_IMAGES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "jfif", "jpe", "pnm", "avif")
"""Endings of the images in a tar; if a row has several, the first of these is meant."""

Row = tuple[bytes | None, Any]
"""The bytes of an image file, and what its row says about it (a caption, a class number), None if it is missing."""


class Shards(ABC):
    """Files that hold groups of rows.

    Attributes:
        sizes: number of rows of each group, at least 1.
        class_names: of the column that is asked for, if the files know them.
    """

    sizes: list[int]
    class_names: list[str] | None = None

    @abstractmethod
    def open(self, group: int) -> Sequence[Row]:
        """The rows of a group. The same rows in every process that asks.

        Raises:
            ValueError: the file is gone or broken.
        """

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """What tells these shards from others, as far as it is known without reading images: names, rows, bytes."""

    @abstractmethod
    def name_of(self, group: int) -> str:
        """What to call a group in a message."""

    def name_of_row(self, group: int, row: int) -> str:
        """What to call a row in a message."""
        return f"image {row} of {self.name_of(group)}"


class ParquetShards(Shards):
    """Parquet files; a group is a row group, of which only the columns that are needed are read, into memory.

    Only the footers of the files are read at the start. Images lie in the files; paths to elsewhere are not followed.

    Args:
        path: a file or a pattern, here or at one of `REMOTE`.
        image_column: None: the first column that holds images.
        column: what is read with each image, or None.
        kind: of that column: "text", "label" or None.
    """

    def __init__(self, path: str, image_column: str | None, column: str | None, kind: str | None):
        import datasets
        import pyarrow.parquet as pq

        files = _found(path)
        features = datasets.Features()
        self.column = column
        self.groups: list[tuple[str, int]] = []
        self.sizes = []
        for file in files:
            with _readable(file), _opened(file) as opened:
                footer = pq.read_metadata(opened)
                schema = footer.schema.to_arrow_schema()
            if file == files[0]:
                features = datasets.Features.from_arrow_schema(schema)
                self.image_column = image_column_of(features, image_column)
                _check_column(features, column, kind)
            for name in self._columns():
                if name not in schema.names:
                    raise ValueError(f"{file} has no column {name}, which {files[0]} has")
            for number in range(footer.num_row_groups):
                if rows := footer.row_group(number).num_rows:
                    self.groups.append((file, number))
                    self.sizes.append(rows)
        self.class_names = getattr(features.get(column), "names", None)

    def _columns(self) -> list[str]:
        return [self.image_column, *([self.column] if self.column else [])]

    def open(self, group: int) -> Sequence[Row]:
        import pyarrow.parquet as pq

        file, number = self.groups[group]
        with _readable(file), _opened(file) as opened:
            table = pq.ParquetFile(opened).read_row_group(number, columns=self._columns(), use_threads=False)
        return _TableRows(table.combine_chunks(), self.image_column, self.column)

    def identity(self) -> Iterable[str]:
        yield from map(str, self.sizes)
        for file in dict(self.groups):
            yield f"{os.path.basename(file)} {'' if '://' in file else os.path.getsize(file)}"

    def name_of(self, group: int) -> str:
        file, number = self.groups[group]
        return f"{os.path.basename(file)}, row group {number}"


class _TableRows(Sequence[Row]):
    """Rows of a table in memory, made one at a time."""

    def __init__(self, table: Any, image_column: str, column: str | None):
        self.images = table[image_column]
        self.cells = None if column is None else table[column]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: Any) -> Any:
        image = self.images[row].as_py()
        image = image["bytes"] if isinstance(image, dict) else image
        return image, None if self.cells is None else self.cells[row].as_py()


class TarShards(Shards):
    """Tar files as webdataset has them; a group is a file, whose images stay on the disk until they are decoded.

    Files that follow each other and share a name up to its first dot are one row: 0001.jpg, 0001.txt, 0001.cls. If none
    of them is an image by its whole ending, names go up to their last dot: 22.05.jpg and 22.05.txt are a row, too.
    A row without an image is passed over, links and hidden files are left alone, and what is left out is counted. At
    the start only the headers of the files in a tar are read; no name in a tar is ever used as a path.

    Args:
        path: a file or a pattern.
        image_column: ending of the images; None: any that images have.
        column: ending of the file that is read with each image, or None.

    Raises:
        ValueError: no such file, a file that cannot be read, or one whose rows are torn apart.
    """

    def __init__(self, path: str, image_column: str | None, column: str | None):
        self.endings = (image_column,) if image_column else TAR_IMAGES
        self.column = column
        if "://" in path:
            raise ValueError(f"`path={path}`: tar files are read from a disk; parquet files may lie elsewhere")
        self.files, self.sizes, self.digests = list[str](), list[int](), list[str]()
        unused: list[str] = []
        links: list[str] = []
        for file in _found(path):
            rows, digest = self._count(file, unused, links)
            if rows:
                self.files.append(file)
                self.sizes.append(rows)
                self.digests.append(digest)
        why = f"that do not end in .{image_column}" if image_column else UNREADABLE
        parts = [part for part in (some_of(unused, why), some_of(links, "that are links")) if part]
        if parts and self.sizes:
            warnings.warn(f"images of {path} are left out: {', '.join(parts)}", stacklevel=3)

    def open(self, group: int) -> Sequence[Row]:
        return _TarRows(self.files[group], [places for _, *places in self._rows(self.files[group])])

    def identity(self) -> Iterable[str]:
        return self.digests

    def name_of(self, group: int) -> str:
        return os.path.basename(self.files[group])

    def name_of_row(self, group: int, row: int) -> str:
        name = next(islice(self._rows(self.files[group]), row, None))[0]
        return f"image {row} of {self.name_of(group)}, {name},"

    def _count(self, path: str, unused: list[str], links: list[str]) -> tuple[int, str]:
        """Number of rows of a tar, and a digest of their names and sizes.

        Args:
            path: the tar.
            unused: gets the names of the images that are in no row.
            links: gets the names of the images that are links.
        """
        count, seen, digest = 0, set[str](), hashlib.blake2b(digest_size=8)
        for key, places in self._groups(path, links):
            if self.column and key in seen:
                raise ValueError(
                    f"{path}: the files of {key.lstrip('/')} do not follow each other, so that images and their "
                    f".{self.column} cannot be matched: sort the tar by name (tar --sort=name)"
                )
            seen.add(key)
            rows = [f"{name} {image[1]}\0" for name, image, _ in self._rows_of(key, places)]
            digest.update("".join(rows).encode(errors="surrogateescape"))
            count += len(rows)
            names = [] if rows else [f"{key.lstrip('/')}.{ending}" for ending in places]
            unused += [name for name in names if is_image_name(name)]
        return count, digest.hexdigest()

    def _groups(self, path: str, links: list[str] | None = None) -> Iterator[tuple[str, dict[str, "_Place"]]]:
        """The files of a tar that share a name up to its first dot, by their endings; adds its links to a list."""
        with _readable(path), tarfile.open(path, "r:") as tar:
            for key, row in groupby(_files_in(tar, [] if links is None else links), itemgetter(0)):
                yield key, {ending: place for _, ending, place in row}

    def _rows(self, path: str) -> Iterator[tuple[str, "_Place", "_Place | None"]]:
        """The name of the image of each row, where in a tar it is, and where what belongs to it is."""
        for key, places in self._groups(path):
            yield from self._rows_of(key, places)

    def _rows_of(self, key: str, places: dict[str, "_Place"]) -> Iterator[tuple[str, "_Place", "_Place | None"]]:
        parts = {key: places}
        if not any(ending in places for ending in self.endings):
            parts = {}
            for name, place in places.items():
                longer, _, ending = name.rpartition(".")
                parts.setdefault(f"{key}.{longer}", {})[ending] = place
        for part, inside in parts.items():
            found = next((ending for ending in self.endings if ending in inside), None)
            if found is not None:
                yield f"{part.lstrip('/')}.{found}", inside[found], inside.get(self.column or "")


_Place = tuple[int, int]
"""First byte and number of bytes."""


def _files_in(tar: tarfile.TarFile, links: list[str]) -> Iterator[tuple[str, str, _Place]]:
    """Key, ending and place of each file; hidden ones, such as a Mac adds to each, are no part of it."""
    for member in tar:
        if os.path.basename(member.name).startswith("."):
            continue
        if member.isreg() and not member.issparse():
            yield *_key_and_ending(member.name), (member.offset_data, member.size)
        elif (member.issym() or member.islnk()) and is_image_name(member.name):
            links.append(member.name)


class _TarRows(Sequence[Row]):
    """Rows of a tar, read one at a time, at a place of their own: processes that share the open file do not mind."""

    def __init__(self, file: str, places: list[list[Any]]):
        self.file = open(file, "rb")  # noqa: SIM115 - closed with this object
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: Any) -> Any:
        image, beside = self.places[row]
        text = None if beside is None else self._read(beside).decode("utf-8-sig", errors="replace")
        return self._read(image), text

    def _read(self, place: _Place) -> bytes:
        return os.pread(self.file.fileno(), place[1], place[0])


def _key_and_ending(name: str) -> tuple[str, str]:
    """ "a.b/0001.seg.png" as "a.b/0001" and "seg.png"."""
    folder, _, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}/{key}", ending.lower()


def _found(path: str) -> list[str]:
    """The files of a pattern, in the order of their names; raises ValueError if there are none."""
    if "://" not in path:
        files = [path] if os.path.isfile(path) else sorted(glob.glob(path))
    elif path.partition("://")[0] in REMOTE and "::" not in path:
        import fsspec

        with _readable(path):
            system, pattern = fsspec.url_to_fs(path)
            files = [system.unstrip_protocol(file) for file in sorted(system.glob(pattern))]
    else:
        raise ValueError(f"`path={path}`: shards lie on a disk, or at {', '.join(f'{name}://' for name in REMOTE)}")
    if not files:
        raise ValueError(f"`path={path}`: no such file")
    return files


def _opened(file: str) -> IO[bytes]:
    if "://" not in file:
        return open(file, "rb")
    import fsspec

    return fsspec.open(file, "rb").open()  # fsspec's file systems are made anew in every process


def _check_column(features: Any, column: str | None, kind: str | None) -> None:
    import datasets

    if column is None:
        return
    if column not in features:
        raise ValueError(f"`{kind}_column` names the column {column}, which is not there: {', '.join(features)}")
    feature = features[column]
    if kind == "text" and not is_text(feature):
        raise ValueError(f"`text_column={column}` holds {feature}; captions are strings")
    if kind == "label" and not (isinstance(feature, datasets.ClassLabel) or "int" in getattr(feature, "dtype", "")):
        raise ValueError(f"`label_column={column}` holds {feature}; labels of shards are numbers from 0")


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turns what is raised about a file (by pyarrow, tarfile, fsspec, the network) into one line about it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{file} cannot be read: {one_line(str(error))[:300] or type(error).__name__}") from error
