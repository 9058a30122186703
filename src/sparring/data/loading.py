"""One word for a data set, as the command line takes it."""

import inspect
from pathlib import Path
from typing import Any

from sparring.data.base import Digits, ImageData
from sparring.data.canvases import DigitCanvases
from sparring.data.folder import ImageFolder
from sparring.data.hub import HubData
from sparring.data.ink import InkDigits
from sparring.data.sorting import Sorting
from sparring.data.stream import StreamData
from sparring.data.sudoku import Sudoku
from sparring.data.toys import Checkerboard, GaussianGrid, GaussianMixture, SwissRoll
from sparring.data.voices import Voices


def from_spec(spec: str, **settings: Any) -> ImageData:
    """The data set that a word names; see `named`.

    Args:
        spec: the word.
        settings: arguments of the class it stands for, such as `size` or `limit`; None counts as left out.

    Raises:
        ValueError: nothing of that name, or a setting its class does not have, or what the class itself refuses.
    """
    kind, chosen = named(spec)
    chosen = {name: value for name, value in settings.items() if value is not None} | chosen
    known = inspect.signature(kind).parameters
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is not a setting of {spec}, which has: {', '.join(known)}")
    return kind(**chosen)


def named(spec: str) -> tuple[type[ImageData], dict[str, Any]]:
    """The class and the arguments that a word stands for; nothing is read yet.

    "digits", "digits:SPLIT" or, of one digit, "digits:3" · "ring", "grid25", "swissroll", "checkerboard", "voices",
    "sudoku", "sorting", "ink", "canvases" · a parquet file or a pattern of them · tar files · a folder of images, or
    one that `datasets` reads (with parquet files or a metadata file, or saved by it) · "hub:OWNER/NAME" or
    "hub:OWNER/NAME:SPLIT".

    Raises:
        ValueError: nothing of that name.
    """
    toys: dict[str, type[ImageData]] = {
        "ring": GaussianMixture,
        "grid25": GaussianGrid,
        "swissroll": SwissRoll,
        "checkerboard": Checkerboard,
        "voices": Voices,
        "sudoku": Sudoku,
        "sorting": Sorting,
        "ink": InkDigits,
        "canvases": DigitCanvases,
    }
    word, _, rest = spec.partition(":")
    if word == "digits":
        return Digits, {"classes": [int(rest)]} if rest in tuple("0123456789") else {"split": rest or "train"}
    if spec in toys:
        return toys[spec], {}
    if word == "hub" and rest:
        name, _, split = rest.partition(":")
        return HubData, {"path": name, "split": split or "train"}
    if spec.endswith((".parquet", ".tar")):
        return StreamData if spec.endswith(".tar") else HubData, {"path": spec}
    path = Path(spec).expanduser()
    if path.is_dir():
        saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
        tables = ("*.parquet", "data/*.parquet", "metadata.*", "train/metadata.*")  # metadata: captions of the images
        table = any(file for pattern in tables for file in path.glob(pattern))
        kind: type[ImageData] = HubData if saved or table else ImageFolder
        return kind, {"path": str(path)}
    raise ValueError(
        f"`{spec}` is no data set: give digits, digits:holdout, {', '.join(toys)}, a parquet file, a folder that "
        "exists, or hub:OWNER/NAME"
    )
