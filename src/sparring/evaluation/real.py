"""Real images to measure against, from the words of the command line or from a run."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sparring.data import ImageData, from_spec, named
from sparring.metrics.extract import ImageBatches
from sparring.runs import RunFolder, is_run
from sparring.runs.classes import make

COLOURED = 0.1  # of a range of 2: what JPEG does to a grey image stays below


def data_of_run(run: Path, allow: Sequence[str] = ()) -> ImageData:
    """The training data of a run, made again from its configuration.

    Args:
        run: run folder.
        allow: packages whose classes it may name, beside those of the library.

    Raises:
        ValueError: it does not say; a class of another package; what the class refuses.
    """
    section = RunFolder(run).read_config().get("data")
    if not isinstance(section, dict) or "class_path" not in section:
        raise ValueError(f"{run} does not say how its data was made: give --reference and --train")
    try:
        data = make(section, allow)
    except ValueError as error:
        raise ValueError(f"{error}; or give --reference and --train") from None
    if not isinstance(data, ImageData):
        raise ValueError(f"{run} was trained on a {type(data).__name__}, which is no data set: give --reference")
    return data


def looks_of(images: ImageData) -> str:
    """Shape, and mean and deviation of the pixels of 64 images: data sets of one name that differ tell by it."""
    rows = images[sorted({i * len(images) // 64 for i in range(64)})][0].double()
    return f"{'x'.join(map(str, images.image_shape))} {rows.mean():.3f} {rows.std():.3f}"


@dataclass(frozen=True)
class RealImages:
    """Images to measure against, and, if they are known, those that were trained on."""

    reference: ImageData
    train: ImageData | None

    def judges(self, classes: Tensor) -> bool:
        """Whether the training images are of these classes [n], so that a classifier of them knows what it sees."""
        labels = None if self.train is None else self.train.labels()
        return labels is None or set(classes.unique().tolist()) <= set(labels.unique().tolist())

    @cached_property
    def names(self) -> dict[str, Any]:
        """What a result says of the images: their names, and how those measured against look."""
        train = None if self.train is None else self.train.name
        return {"reference": self.reference.name, "train": train, "reference_looks": looks_of(self.reference)}

    @property
    def alike(self) -> bool:
        """Whether the training images are of all classes of the reference, so that they make its floor."""
        labels = self.reference.labels()
        return labels is None or self.judges(labels)

    @classmethod
    def of(
        cls,
        reference: str | None,
        train: str | None,
        source: str | Path,
        channels: int | None = None,
        allow: Sequence[str] = (),
        **settings: Any,
    ) -> "RealImages":
        """From the words of the command line; what is left out comes from the run.

        Args:
            reference: word for the real images, or a run; a data set with a holdout stands for its holdout.
            train: word for the images trained on; None: a run's own, of anything else those that the reference's
                holdout was taken from.
            source: what is evaluated.
            channels: of its images; with 1, grey images in colour files are read as grey.
            allow: packages whose classes a run may name, beside those of the library.
            settings: size, pad, limit … of both data sets, as far as they have them.

        Raises:
            ValueError: nothing to measure against; a word that is no data set; colour images for a grey model; images
                of one shape to measure against and of another that were trained on.
        """
        known = data_of_run(Path(source), allow) if is_run(source) and (reference is None or train is None) else None
        if reference is None:
            if known is None:
                raise ValueError("nothing to measure against: give --reference DATA (digits, a folder, a parquet file)")
            if known.holdout() is None:
                ways = ways_to_hold_out(known)
                raise ValueError(
                    f"`{known.name}`, on which the run was trained, has no images that it was not trained on: give "
                    f"others with --reference DATA{f', or train with {ways}' if ways else ''}"
                )
            real = known
        else:
            real = data_of(reference, channels, settings, allow)
        held_out = real.holdout() or real
        trained = real if known is None else known
        if train is not None:
            trained = data_of(train, channels, settings, allow)
        if known is not None:
            held_out, trained = known.alike(held_out), known.alike(trained)
        if held_out.image_shape != trained.image_shape:
            raise ValueError(
                f"the reference holds images of {held_out.image_shape}, those trained on are {trained.image_shape}: "
                f"give --size {trained.image_shape[-1]}, or --train images like those of the reference"
            )
        return cls(held_out, None if trained is held_out else trained)


def ways_to_hold_out(data: ImageData) -> str:
    """The flags by which a run on data of this class would keep images from training, as words; empty without any."""
    settings = inspect.signature(type(data)).parameters
    ways = {"holdout": "--data.holdout DATA", "holdout_share": "--data.holdout_share 0.1"}
    return " or ".join(flag for name, flag in ways.items() if name in settings)


def data_of(word: str, channels: int | None, settings: Mapping[str, Any], allow: Sequence[str] = ()) -> ImageData:
    """The data set of a word, or of a run, with those settings that its class has; grey if `channels` is 1.

    Raises:
        ValueError: no such data set, or colour images that would have to be made grey.
    """
    if is_run(word):
        return data_of_run(Path(word), allow)
    own = {name: value for name, value in settings.items() if name in settings_of(word)}
    data = from_spec(word, **own)
    if channels != 1 or data.image_shape[0] == 1 or "channels" not in settings_of(word):
        return data
    for images in ImageBatches(data):
        if float((images.amax(1) - images.amin(1)).max()) > COLOURED:
            raise ValueError(
                f"{word} holds colour images, and what they are compared with is grey: convert them to grey, or "
                "measure colour against colour"
            )
    return from_spec(word, channels=1, **own)


def settings_of(word: str) -> Sequence[str]:
    """What can be set of the data set that a word names."""
    return list(inspect.signature(named(word)[0]).parameters)


def check_used(settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raises ValueError for a setting that none of the data sets has, since it would have no effect."""
    known = {name for word in words if not is_run(word) for name in settings_of(word)}
    for name, value in settings.items():
        if name not in known:
            where = (
                f"{', '.join(words)} {'have' if len(words) > 1 else 'has'} no such setting"
                if words
                else ("it is a setting of the data that --reference and --train name, and a run has its own")
            )
            raise ValueError(f"`{name}={value}` has no effect: {where}; leave it out")
