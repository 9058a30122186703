"""One word for a data set: what `--reference` and `sparring evaluate` take."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring.data.base import Digits, ImageData
from sparring.data.folder import ImageFolder
from sparring.data.hub import HubData
from sparring.data.toys import Checkerboard, GaussianMixture, SwissRoll


def from_spec(spec: str, **settings: Any) -> ImageData:
    """The data set that a word names.

    "digits" or "digits:SPLIT" · "ring", "swissroll", "checkerboard" · a parquet file or a pattern of them · a folder of
    images, or one that `datasets` reads (with parquet files, or saved by it) · "hub:OWNER/NAME" or
    "hub:OWNER/NAME:SPLIT".

    Args:
        spec: the word.
        settings: arguments of the class it stands for, such as `size` or `limit`; None counts as left out.

    Raises:
        ValueError: nothing of that name, or a setting its class does not have.
    """
    word, _, rest = spec.partition(":")
    settings = {name: value for name, value in settings.items() if value is not None}
    toys = {"ring": GaussianMixture, "swissroll": SwissRoll, "checkerboard": Checkerboard}
    if word == "digits":
        return _build(spec, Digits, settings | {"split": rest or "train"})
    if spec in toys:
        return _build(spec, toys[spec], settings)
    if word == "hub" and rest:
        name, _, split = rest.partition(":")
        return _build(spec, HubData, settings | {"path": name, "split": split or "train"})
    path = Path(spec)
    if spec.endswith(".parquet"):
        return _build(spec, HubData, settings | {"path": spec})
    if path.is_dir():
        saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
        kind = HubData if saved or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")) else ImageFolder
        return _build(spec, kind, settings | {"path": spec})
    raise ValueError(
        f"`{spec}` is no data set: give digits, digits:holdout, {', '.join(toys)}, a parquet file, a folder that "
        "exists, or hub:OWNER/NAME"
    )


def _build(spec: str, kind: Callable[..., ImageData], settings: dict[str, Any]) -> ImageData:
    known = inspect.signature(kind).parameters
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is not a setting of {spec}, which has: {', '.join(known) or 'none'}")
    return kind(**settings)
