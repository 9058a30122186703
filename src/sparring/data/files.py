"""Which files of a folder are its images, and which of its subfolders are splits."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparring.data.pixels import is_image_name, readable_suffixes

TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
"""Names of folders that say what their images are for, as `datasets` has them; the first there is the holdout."""

UNREADABLE = "in a format that Pillow does not read here"


@dataclass
class Found:
    """What lies in a folder.

    Attributes:
        images: relative paths, in order.
        unreadable: images in formats that Pillow does not read here.
        links: symbolic links that were not followed.
    """

    images: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def left_out(self) -> str:
        """What is left out, counted and with an example; empty if nothing is."""
        parts = [
            some_of(self.unreadable, UNREADABLE),
            some_of(self.links, "behind symbolic links (set `follow_links=True`)"),
        ]
        return ", ".join(part for part in parts if part)


def some_of(files: Iterable[Path | str], what: str) -> str:
    """ "3 WHAT, such as a.png", or nothing for no files."""
    names = sorted(file if isinstance(file, str) else file.as_posix() for file in files)
    return f"{len(names)} {what}, such as {names[0]}" if names else ""


def image_files(folder: Path, follow_links: bool = False) -> Found:
    """All image files below a folder; hidden files are no part of it.

    Args:
        folder: where to look.
        follow_links: also read files and folders behind symbolic links, each folder once.
    """
    suffixes, found, pending, seen = readable_suffixes(), Found(), [folder], {os.path.realpath(folder)}
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(folder)
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and not follow_links:
                    if entry.is_dir() or is_image_name(entry.name):
                        found.links.append(name)
                elif entry.is_dir():
                    if (real := os.path.realpath(entry.path)) not in seen:
                        seen.add(real)
                        pending.append(Path(entry.path))
                elif entry.is_file() and entry.name.lower().endswith(suffixes):
                    found.images.append(name)
                elif entry.is_file() and is_image_name(entry.name):
                    found.unreadable.append(name)
    found.images.sort()
    return found


def splits_in(folder: Path) -> dict[str, Path]:
    """Subfolders by the split that their names say: "train", and "test" and "validation" if they are there.

    Only folders say so, never the names of files, and only a folder called train beside others for the rest: classes
    may be called train or test, too.

    Raises:
        ValueError: folders for training and for tests, and images beside them that belong to neither.
    """
    with os.scandir(folder) as entries:
        there = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
    folders = {name: folder / name for name, entry in there.items() if entry.is_dir()}
    train = [name for name in folders if name.lower() in TRAIN]
    held = sorted((name for name in folders if name.lower() in HELD_OUT), key=lambda name: HELD_OUT.index(name.lower()))
    if len(train) != 1:
        return {}
    others = [name for name in there if name not in (*train, *held) and (name in folders or is_image_name(name))]
    others = [name for name in others if name not in folders or image_files(folders[name]).images]
    if others and not held:
        return {}
    if others:
        raise ValueError(
            f"{folder} has {train[0]}/ and {held[0]}/, and images that belong to neither, such as in {others[0]}: name "
            f"what is trained on, {folder / train[0]}, and give {folder / held[0]} as `holdout`"
        )
    splits = {"train": folders[train[0]]}
    for name in held:
        splits.setdefault("test" if name.lower().startswith("test") else "validation", folders[name])
    return splits


def told_of_splits(name: str, splits: dict[str, Path], holdout: str | None) -> str:
    """One sentence on what the folders of a data set are used for.

    Args:
        name: of the data set.
        splits: as `splits_in` gives them.
        holdout: which of them is the holdout, None for none.
    """
    uses = [f"{splits['train'].name}/ is trained on"]
    uses += [f"{splits[holdout].name}/ is the holdout"] if holdout else []
    uses += [f"{path.name}/ is not used" for split, path in splits.items() if split not in ("train", holdout)]
    return f"{name}: {', '.join(uses)}"
