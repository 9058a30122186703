"""Evaluates a run, a pipeline or a folder of images against real ones, with everything a number needs beside it."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.data import ImageData, from_spec
from sparring.evaluation.features import cache_folder, default_features, feature_network
from sparring.metrics import Reference
from sparring.runs import RunFolder
from sparring.runs.pictures import image_grid
from sparring.runs.results import Result, is_run
from sparring.samplers import Sampler, save_images

NUM_SHOWN = 64


def data_of_run(run: Path) -> ImageData:
    """The training data of a run, made again from its configuration."""
    section = RunFolder(run).read_config().get("data")
    if not isinstance(section, dict) or not str(section.get("class_path", "")).startswith("sparring.data."):
        raise ValueError(f"{run} does not say how its data was made: give --reference and --train")
    module, _, name = section["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**(section.get("init_args") or {}))


@dataclass
class RealImages:
    """Images to measure against, and, where they are known, those that were trained on."""

    reference: ImageData
    train: ImageData | None

    @classmethod
    def of(cls, reference: str | None, train: str | None, source: str | Path, **settings: Any) -> "RealImages":
        """From the words of the command line; what is left out comes from the run.

        Args:
            reference: word for the real images; a data set with a holdout stands for its holdout.
            train: word for the images trained on; None: a run's own, of anything else those that the reference's
                holdout was taken from.
            source: what is evaluated.
            settings: size, pad, channels … of both data sets.
        """
        known = data_of_run(Path(source)) if is_run(source) and (reference is None or train is None) else None
        if reference is None:
            if known is None:
                raise ValueError("nothing to measure against: give --reference DATA (digits, a folder, a parquet file)")
            if known.holdout() is None:
                raise ValueError(
                    f"`{known.name}`, on which the run was trained, has no images that it was not trained on: give "
                    "others with --reference DATA, or train with --data.holdout DATA or --data.holdout_share 0.1"
                )
            real = known
        else:
            real = from_spec(reference, **settings)
        judged = real.holdout() or real
        trained = from_spec(train, **settings) if train is not None else real if known is None else known
        return cls(judged, None if trained is judged else trained)


class Evaluator:
    """Real images seen once, to measure any number of sources against.

    Args:
        real: images to measure against.
        features: name of the feature network, see `feature_network`; None: what suits the data (`default_features`).
        features_seed: of a feature network that is trained on the data; None: its own.
    """

    def __init__(self, real: RealImages, features: str | None = None, features_seed: int | None = None):
        self.real = real
        self.names = {"reference": real.reference.name, "train": None if real.train is None else real.train.name}
        name = features or default_features(real.reference, real.train)
        network = feature_network(name, real.reference, real.train, features_seed)
        train = real.train.images() if real.train is not None else None
        self.reference = Reference(real.reference.images(), network, train=train, cache=cache_folder())

    def folder(self, path: Path, **settings: Any) -> Result:
        """Result of a folder (or parquet file) of images, whoever made them."""
        channels, height, width = self.real.reference.image_shape
        images = from_spec(str(path), channels=channels, **settings)
        if images.image_shape != self.real.reference.image_shape:
            raise ValueError(
                f"{path} holds images of {images.image_shape[2]}x{images.image_shape[1]} pixels and the reference "
                f"{width}x{height}: make them equal with --size or --pad"
            )
        return replace(
            self.reference.evaluate(images.images()), reference=self.names["reference"], train=self.names["train"]
        )

    def sampler(
        self,
        sampler: Sampler,
        *,
        n: int,
        steps: int,
        scheduler: str | None,
        seed: int,
        guidance: float = 1.0,
        batch_size: int | None = None,
        pictures: Path | None = None,
    ) -> Result:
        """Result of n samples of a run or a pipeline: of the reference's classes or captions, where it takes some.

        A scheduler that ran with a guidance of 5 is called "ddim-w5". With `pictures` (a run folder) also the first
        samples as `samples/final-SCHEDULER-CALLS.png`, and those that are nearest to training images, each above its
        neighbour, as `neighbours.png`.

        Raises:
            ValueError: the model makes other images than the reference holds; it takes captions and the reference has
                none.
        """
        real = self.real.reference
        prompts = None
        if sampler.generator.captioned:
            sampler.generator.check(real)
            prompts = real.captions(min(n, len(real)))
        if sampler.shape != real.image_shape:
            raise ValueError(f"the model makes images of {sampler.shape}, the reference holds {real.image_shape}")
        labels = None
        if sampler.generator.takes_labels and real.num_classes is not None:  # the network may have one more: "none"
            labels = list(range(min(real.num_classes, sampler.generator.num_classes or real.num_classes)))
        samples = sampler(
            n,
            steps,
            scheduler=scheduler,
            seed=seed,
            labels=labels,
            prompts=prompts,
            guidance=guidance,
            batch_size=batch_size,
        )
        name = samples.scheduler if guidance == 1 else f"{samples.scheduler}-w{guidance:g}"
        result = replace(
            self.reference.evaluate(samples.images),
            nfe=samples.nfe,
            scheduler=name,
            seed=seed,
            reference=self.names["reference"],
            train=self.names["train"],
            seconds=samples.seconds,
            images_per_second=n / samples.seconds,
        )
        if pictures is not None:
            save_images(samples.images[:NUM_SHOWN], pictures / "samples" / f"final-{name}-{samples.nfe}.png")
            self.save_neighbours(samples.images, result, pictures / "neighbours.png")
        return result

    def save_neighbours(self, images: Tensor, result: Result, out: Path) -> None:
        """A picture of the samples that are nearest to a training image, each above that image."""
        pairs = result.closest_pairs
        if not pairs or self.real.train is None:
            return
        fakes = images[[fake for fake, _, _ in pairs]]
        real, _ = self.real.train[[index for _, index, _ in pairs]]
        image_grid(torch.cat([fakes, real]), columns=len(pairs)).save(out)
