"""A folder of image files."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from sparring.data.captions import METADATA, captions_beside
from sparring.data.decode import DecodedImages, check_same_kind, split_off
from sparring.data.files import image_files, splits_in, told_of_splits
from sparring.data.pixels import Source, readable_suffixes


class ImageFolder(DecodedImages):
    """All image files of a folder and its subfolders, in the order of their names.

    A folder that holds train/ and test/ (or validation/ …) is trained on the first, and the other is its holdout;
    names of files say nothing. Symbolic links are not followed unless `follow_links` says so, and hidden files are left
    alone: nothing outside is read. What is left out is counted, with an example.
    How an image becomes a tensor is said at `DecodedImages`.

    Args:
        path: the folder.
        size: width and height to resize to (centre square). None: images stay as they are and must all have one size.
        pad: black pixels added on each side, after resizing.
        channels: 1 grey, 3 RGB, None: grey when all images are grey, RGB otherwise.
        labels: take the first subfolder's name as the class. None: if all images lie in two or more such folders, and
            no captions are taken.
        captions: take captions from metadata.jsonl or metadata.csv (file_name, text), or from a .txt beside each image.
        flip: turn half of the training images left to right.
        on_error: "stop" at images that cannot be used, or "skip" them with a warning.
        holdout: another folder, with the images to evaluate against.
        holdout_share: about this share of the images is held out and not trained on; a file's name decides.
        follow_links: also read files and folders behind symbolic links.

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
        labels: bool | None = None,
        captions: bool = False,
        flip: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        holdout: str | None = None,
        holdout_share: float | None = None,
        follow_links: bool = False,
    ):
        if labels and captions:
            raise ValueError("`labels=True` and `captions=True`: a network takes one of them")
        if holdout_share is not None and holdout is not None:
            raise ValueError(f"`holdout_share={holdout_share}` and `holdout={holdout}`: give one of them")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"`path={path}` is not a folder" + (": it is a file" if folder.exists() else ""))
        name = folder.resolve().name
        splits = splits_in(folder)
        self.path = splits.get("train", folder)
        self._holdout = None if holdout is None else Path(holdout).expanduser()
        if len(splits) > 1:
            other = None if holdout or holdout_share else "test" if "test" in splits else "validation"
            self._holdout = splits[other] if other else self._holdout
            warnings.warn(told_of_splits(name, splits, other), stacklevel=2)
        found = image_files(self.path, follow_links)
        self._files, left_out = found.images, found.left_out()
        if not self._files:
            ignored = f" ({left_out})" if left_out else ""
            raise ValueError(f"`path={path}` holds no images{ignored}: looked for {' '.join(readable_suffixes())}")
        if left_out:
            warnings.warn(f"images of {name} are left out: {left_out}", stacklevel=2)
        classes = self._classes(labels, captions)
        self._labels, self._follow_links = labels, follow_links
        rows, held_out = list(range(len(self._files))), list[int]()
        if holdout_share is not None:
            rows, held_out = split_off(rows, self._key_of_row, holdout_share)
        super().__init__(
            name=name,
            rows=rows,
            labels=None if classes is None else torch.tensor([classes.index(file.parts[0]) for file in self._files]),
            captions=self._captions_below(folder) if captions else None,
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
            str(self._holdout),
            size=self.size,
            pad=self.pad,
            channels=1 if self.image_shape[0] == 1 else 3,
            labels=self._labels if self.num_classes is not None else False,
            captions=self.text,
            on_error=self.on_error,
            follow_links=self._follow_links,
        )
        check_same_kind(self, other)
        return other

    def _classes(self, labels: bool | None, captions: bool) -> list[str] | None:
        """Names of the classes, or None without labels."""
        outside = [file for file in self._files if len(file.parts) == 1]
        classes = sorted({file.parts[0] for file in self._files})
        if labels and outside:
            raise ValueError(
                f"`labels=True` needs each image of {self.path} in a subfolder named after its class, but "
                f"{len(outside)} lie in none, such as {outside[0]}"
            )
        by_default = labels is None and not captions and not outside and len(classes) > 1
        return classes if labels or by_default else None

    def _captions_below(self, folder: Path) -> list[str | None]:
        """The captions of the images; they may be told beside them, or beside the folders of the splits."""
        above = any((folder / name).is_file() for name in METADATA)
        base = folder if above else self.path
        return captions_beside(base, [(self.path / file).relative_to(base) for file in self._files])

    def _sources(self, rows: Sequence[int]) -> list[Source]:
        return [self.path / self._files[row] for row in rows]

    def identity(self) -> Iterator[str]:
        files = (self._files[row] for row in self._rows)
        return (f"{file.as_posix()} {(self.path / file).stat().st_size}" for file in files)

    def _label_of_row(self, row: int) -> str:
        return self._files[row].as_posix()

    def _key_of_row(self, row: int) -> str:
        return self._files[row].with_suffix("").as_posix()
