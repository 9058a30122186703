"""A folder of image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from sparring.data.captions import captions_beside
from sparring.data.decode import DecodedImages, check_same_kind, split_off
from sparring.data.pixels import Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFolder(DecodedImages):
    """All image files of a folder and its subfolders, in the order of their names.

    Symbolic links inside the folder are not followed, and hidden files are left alone: nothing outside is ever read.
    How an image becomes a tensor is said at `DecodedImages`.

    Args:
        path: the folder.
        size: width and height to resize to (centre square). None: images stay as they are and must all have one size.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: grey when all images are grey, RGB otherwise.
        labels: take the first subfolder's name as the class.
        captions: take captions from metadata.jsonl or metadata.csv (file_name, text), or from a .txt beside each image.
        flip: turn half of the training images left to right.
        on_error: "stop" at images that cannot be used, or "skip" them with a warning.
        holdout: another folder, with the images to evaluate against.
        holdout_share: about this share of the images is held out and not trained on; a file's name decides.

    Raises:
        ValueError: no such folder, no images in it, labels asked of images without a class folder, labels and
            captions at once, captions that cannot be read, images that cannot be used (counted and named).
    """

    def __init__(
        self,
        path: str,
        *,
        size: int | None = None,
        pad: int = 0,
        channels: Literal[1, 3] | None = None,
        labels: bool = False,
        captions: bool = False,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout: str | None = None,
        holdout_share: float | None = None,
    ):
        if labels and captions:
            raise ValueError("`labels=True` and `captions=True`: a network takes one of them")
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"`path={path}` is not a folder" + (": it is a file" if self.path.exists() else ""))
        self._files, links = _image_files(self.path)
        if not self._files:
            ignored = f" ({links} symbolic links were not followed)" if links else ""
            raise ValueError(f"`path={path}` holds no images{ignored}: looked for {' '.join(SUFFIXES)}")
        classes, numbers = None, None
        if labels:
            outside = [file for file in self._files if len(file.parts) == 1]
            if outside:
                raise ValueError(
                    f"`labels=True` needs each image of {path} in a subfolder named after its class, but "
                    f"{len(outside)} lie in none, such as {outside[0]}"
                )
            classes = sorted({file.parts[0] for file in self._files})
            numbers = torch.tensor([classes.index(file.parts[0]) for file in self._files])
        if holdout_share is not None and holdout is not None:
            raise ValueError(f"`holdout_share={holdout_share}` and `holdout={holdout}`: give one of them")
        self._holdout = holdout
        rows, held_out = list(range(len(self._files))), list[int]()
        if holdout_share is not None:
            rows, held_out = split_off(rows, self._key_of_row, holdout_share)
        super().__init__(
            name=self.path.resolve().name,
            rows=rows,
            labels=numbers,
            captions=captions_beside(self.path, self._files) if captions else None,
            class_names=classes,
            num_classes=None if classes is None else len(classes),
            size=size,
            pad=pad,
            channels=channels,
            flip=flip,
            on_error=on_error,
            held_out=held_out,
        )

    def holdout(self) -> "ImageFolder | None":
        if self._holdout is None:
            return self._other_side()
        other = ImageFolder(
            self._holdout,
            size=self.size,
            pad=self.pad,
            channels=1 if self.image_shape[0] == 1 else 3,
            labels=self.num_classes is not None,
            captions=self.text,
            on_error=self.on_error,
        )
        check_same_kind(self, other)
        return other

    def _sources(self, rows: Sequence[int]) -> list[Source]:
        return [self.path / self._files[row] for row in rows]

    def _label_of_row(self, row: int) -> str:
        return self._files[row].as_posix()

    def _key_of_row(self, row: int) -> str:
        return self._files[row].with_suffix("").as_posix()


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """Image files below a folder, as relative paths in order, and the number of symbolic links passed over."""
    files, links, pending = [], 0, [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    links += 1
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False) and entry.name.lower().endswith(SUFFIXES):
                    files.append(Path(entry.path).relative_to(folder))
    return sorted(files), links
