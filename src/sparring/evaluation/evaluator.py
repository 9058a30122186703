"""Evaluates a run, a pipeline or a folder of images against real ones, with everything a number needs beside it."""

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.data import ImageData
from sparring.evaluation.features import cache_folder, default_features, feature_network
from sparring.evaluation.pairs import sources_of, with_pairs
from sparring.evaluation.points import with_points
from sparring.evaluation.real import RealImages, data_of
from sparring.generators.predictor import Intervention
from sparring.metrics import Reference
from sparring.metrics.extract import ImageBatches
from sparring.networks.device import default_device
from sparring.runs.pictures import POINTS, image_grid, to_uint8
from sparring.runs.results import Result
from sparring.samplers import Sampler, save_images

NUM_SHOWN, POINTS_SHOWN = 64, 1000
LONGEST = 100  # letters of a sampler's name in that of a file


class Evaluator:
    """Real images seen once, to measure any number of sources against.

    Args:
        real: images to measure against.
        features: name of the feature network, see `feature_network`; None: what suits the data (`default_features`).
        features_seed: of a feature network that is trained on the data; None: its own.
    """

    def __init__(self, real: RealImages, features: str | None = None, features_seed: int | None = None):
        self.real = real
        name = features or default_features(real.reference, real.train)
        network = feature_network(name, real.reference, real.train, features_seed).to(default_device())
        train = None if real.train is None else ImageBatches(real.train)
        batches = ImageBatches(real.reference)
        self.reference = Reference(batches, network, train=train, alike=real.alike, cache=cache_folder())

    def folder(self, path: Path, **settings: Any) -> Result:
        """Result of a folder (or parquet file) of images, whoever made them.

        Args:
            path: where they are.
            settings: size, pad … of their data set, as far as it has them.

        Raises:
            ValueError: they are larger or smaller than the real images, or in colour while those are grey.
        """
        channels, height, width = self.real.reference.image_shape
        images = data_of(str(path), channels, settings)
        if images.image_shape != self.real.reference.image_shape:
            raise ValueError(
                f"{path} holds images of {images.image_shape[2]}x{images.image_shape[1]} pixels and the reference "
                f"{width}x{height}: make them equal with --size or --pad"
            )
        return replace(self.reference.evaluate(ImageBatches(images)), **self.real.names)

    def sampler(
        self,
        sampler: Sampler,
        *,
        n: int,
        steps: int,
        scheduler: str | None,
        seed: int,
        pictures: Path | None = None,
        watch: Callable[[float], None] | None = None,
        **settings: Any,
    ) -> Result:
        """Result of n samples of a run or a pipeline, with classes, captions or sources of the reference.

        The samples pass by in batches, so that any number can be measured. A scheduler that ran with a guidance of 5 is
        called "ddim-w5". With `pictures` (a run folder) also the first samples as
        `samples/final-SCHEDULER-CALLS.png`, and those that are nearest to training images, each above its neighbour, as
        `neighbours.png`. `watch` is called with the share of the drawing that is done; `settings` are further ones of
        `Sampling`: `guidance`, `using`, `batch_size` …

        Raises:
            ValueError: the model makes other images than the reference holds; it takes captions or sources and the
                reference has none.
        """
        real = self.real.reference
        prompts = None
        if sampler.generator.captioned:
            sampler.generator.check(real)
            prompts = real.captions(min(n, len(real)))
        sources = None
        if sampler.generator.takes_source:
            sources = sources_of(real, n)
        channels, height, width = sampler.shape
        factor = max((one.enlarges for one in settings.get("using", ())), default=1)
        if (shape := (channels, factor * height, factor * width)) != real.image_shape:
            raise ValueError(
                f"the model makes images of {shape}, the reference holds {real.image_shape}: give --reference images "
                "of that shape"
            )
        labels = None
        if sampler.generator.takes_labels and real.num_classes is not None:  # the network may have one more: "none"
            labels = classes_of(real, min(real.num_classes, sampler.generator.num_classes or real.num_classes))
        classes = next((one.num_classes for one in settings.get("using", ()) if one.num_classes is not None), None)
        if labels is None and classes is not None:  # of a guide, for a model without classes
            labels = classes_of(real, classes)
        asked = None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(n)])
        own = {"seed": seed, "labels": labels, "prompts": prompts, "sources": sources, "progress": watch}
        stream = sampler.stream(n, steps, scheduler=scheduler, **own, **settings)
        with Passing(stream, settings.get("using", ())) as samples:
            result = replace(
                self.reference.evaluate(samples, labels=asked if asked is None or self.real.judges(asked) else None),
                nfe=stream.nfe,
                scheduler=stream.name,
                guidance=stream.sampling.guidance,
                calls=stream.calls,
                seed=seed,
                **self.real.names,
                seconds=stream.seconds,
                images_per_second=n / stream.seconds,
                measures={name: total / samples.passed for name, total in samples.totals.items()} or None,
            )
            if real.image_shape == POINTS:
                result = with_points(result, samples.rows(range(samples.passed)), real, self.real.train)
            if sources is not None:
                result = with_pairs(result, samples.rows(range(samples.passed)), real)
            if pictures is not None:
                self.save_pictures(samples, result, pictures)
        return result

    def save_pictures(self, samples: "Passing", result: Result, folder: Path) -> None:
        """The first samples (points over real ones), and those nearest to a training image, each above that image."""
        points = self.real.reference.image_shape == POINTS
        shown = min(result.n or 0, POINTS_SHOWN if points else NUM_SHOWN)
        real = self.real.reference.images(min(shown, len(self.real.reference))) if points else None
        name = str(result.scheduler)  # with what was added, which may be long
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}-{sha256(name.encode()).hexdigest()[:8]}"
        out = folder / "samples" / f"final-{name}-{result.nfe}.png"
        save_images(samples.rows(range(shown)), out, real=real)
        if result.closest_pairs and self.real.train is not None and not points:
            near, _ = self.real.train[[index for _, index, _ in result.closest_pairs]]
            pairs = torch.cat([samples.rows([fake for fake, _, _ in result.closest_pairs]), near])
            image_grid(pairs, columns=len(near)).save(folder / "neighbours.png")


class Passing:
    """Samples on their way to the features, a batch at a time; for the pictures they lie in a file until it is closed.

    Args:
        batches: images [B, C, H, W] in [-1, 1]; the file holds them in 8-bit steps, and points as they are.
        using: what was added to the sampler; `totals` are the sums of what it measures of them.
    """

    def __init__(self, batches: Iterable[Tensor], using: Iterable[Intervention] = ()):
        self.batches = batches
        self.using = using
        self.totals: dict[str, float] = defaultdict(float)
        self.shape = POINTS
        self.passed = 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> "Passing":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            self.shape = (batch.shape[1], batch.shape[2], batch.shape[3])
            self.file.write((batch if self.shape == POINTS else to_uint8(batch)).numpy().tobytes())
            self.passed += len(batch)
            for one in self.using:
                for name, values in one.measures(batch).items():
                    self.totals[name] += float(values.sum())
            yield batch

    def rows(self, indices: Iterable[int]) -> Tensor:
        """Some of the images [n, C, H, W]."""
        kind = torch.float32 if self.shape == POINTS else torch.uint8
        size = math.prod(self.shape) * kind.itemsize
        found = []
        for index in indices:
            self.file.seek(index * size)
            found.append(torch.frombuffer(bytearray(self.file.read(size)), dtype=kind).view(self.shape))
        images = torch.stack(found)
        return images if kind == torch.float32 else images.float() / 127.5 - 1


def classes_of(real: ImageData, below: int) -> list[int]:
    """The classes below a number that images are of; all of them, if their labels are not known, or are of pixels."""
    labels = real.labels() if real.num_classes is not None else None
    held = list(range(below)) if labels is None or labels.ndim > 1 else labels.unique().tolist()
    return [one for one in held if one < below] or list(range(below))
