"""Samples each run of a study once and measures the samples in every feature space; keeps what is there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.backbones import Backbone, SmallConvNet, freeze
from sparring.data import ImageData, StoredImages, from_spec
from sparring.data.base import in_range
from sparring.evaluation import RealImages
from sparring.evaluation.features import cache_folder, feature_network
from sparring.evaluation.pairs import sources_of, with_pairs
from sparring.evaluation.points import with_points
from sparring.experiments.study import BASELINE, DataOfStudy
from sparring.experiments.study_runs import StudyRuns, steps_of
from sparring.metrics import Reference
from sparring.networks.device import default_device
from sparring.runs.classes import make
from sparring.runs.pictures import POINTS, to_uint8
from sparring.runs.results import keep_result, measures_of, read_results, write_results
from sparring.samplers import Sampler


@dataclass
class Measuring:
    """Measures the runs of a study; the real images and their features are read once.

    Args:
        runs: of the study.
    """

    runs: StudyRuns
    _real: dict[str, RealImages] = field(default_factory=dict, init=False)
    _references: dict[str, list[Reference]] = field(default_factory=dict, init=False)

    def measure(self, setting: str, seed: int, arm: str) -> int:
        """Samples a run with every sampler once, keeps the images, and measures them in every feature space.

        What makes no images is not measured.

        Returns:
            How many measurements were made; those that are there are kept.
        """
        run = self.runs.folder(setting, seed, arm)
        if self.runs.makes_no_images(setting, arm):
            return 0
        real, made = self.real(setting), 0
        every = read_results(run)
        known = [one for one in every if not self.runs.belongs(one, arm) or one.reference == real.reference.name]
        if len(known) < len(every):  # against images that the study had before
            write_results(run, known)
        sampler: Sampler | None = None
        settings: dict[str, Any] = {}
        for scheduler, nfe in [(name, n) for name, calls in self.runs.study.samplers_of(arm).items() for n in calls]:
            there = {(one.features, one.scheduler, one.nfe) for one in known if self.runs.belongs(one, arm)}
            missing = [one for one in self.references(setting) if (one.name, scheduler, nfe) not in there]
            if not missing:
                continue
            settings = settings or self.runs.sampling(setting, seed, arm)
            of_sources = "" if real.reference.source_shape is None else f"-{self.runs.study.split}"
            file = run / "images" / f"{scheduler}-{nfe}-n{self.runs.study.n}{of_sources}.npy"
            if not file.is_file():
                sampler = sampler or Sampler(self.runs.source(setting, seed, arm), allow=self.runs.allow)
                how = self.runs.drawn_from(setting, seed, arm)
                self.draw(sampler, scheduler, nfe, settings, real.reference, file, how)
            images = in_range(torch.from_numpy(np.load(file)))
            beside = file.with_suffix(".json")
            drawn = json.loads(beside.read_text()) if beside.is_file() else {"calls": None, "classes": None}
            asked = None if drawn["classes"] is None else in_turn(drawn["classes"], len(images))
            asked = asked if asked is None or real.judges(asked) else None
            found = [one.measures(images) for one in settings["using"]]
            wanted = {name: float(values.mean()) for one in found for name, values in one.items()}
            for space in missing:
                result = replace(
                    space.evaluate(images, labels=asked, pairs=0),
                    nfe=nfe,
                    calls=drawn["calls"],
                    scheduler=scheduler,
                    seed=0,
                    split=self.runs.study.split,
                    **real.names,
                    measures=(measures_of(run) or {}) | wanted or None,
                )
                if real.reference.image_shape == POINTS:
                    result = with_points(result, images, real.reference, real.train)
                if real.reference.source_shape is not None:
                    result = with_pairs(result, images, real.reference)
                keep_result(run, result)
                made += 1
        return made

    def draw(
        self,
        sampler: Sampler,
        scheduler: str,
        nfe: int,
        settings: dict[str, Any],
        reference: ImageData,
        file: Path,
        how: dict[str, Any],
    ) -> None:
        """Keeps the samples of a run as an array; beside it what they cost, which classes took turns, and `how`."""
        guided = [one.num_classes for one in settings.get("using", ()) if one.num_classes is not None]
        asked: list[int] | None = None
        if sampler.generator.takes_labels or guided:
            labels = reference.labels()  # of pixels, if they have more dimensions
            seen = None if labels is None or labels.ndim > 1 else labels.unique().tolist()
            asked = list(range(reference.num_classes or 0)) or None if seen is None else seen
        own: dict[str, Any] = {"labels": asked, "sources": None}
        if sampler.generator.takes_source:
            own["sources"] = sources_of(reference, self.runs.study.n)
        steps = steps_of(sampler.generator, scheduler, nfe)
        drawn = sampler(self.runs.study.n, steps, scheduler=scheduler, seed=0, **own, **settings)
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".json").write_text(json.dumps({"calls": drawn.calls, "classes": asked} | how))
        draft = file.with_suffix(".draft.npy")
        np.save(draft, (to_uint8(drawn.images) if drawn.images.shape[1] in (1, 3) else drawn.images).numpy())
        draft.replace(file)

    def real(self, setting: str) -> RealImages:
        """The images that the arms were trained on, and those of the split.

        Raises:
            ValueError: there are none.
        """
        if setting not in self._real:
            place, split = self.runs.study.settings[setting], self.runs.study.split
            arms = self.runs.study.arms.items()
            trained = [name for name, one in arms if name != BASELINE and one.of is None and one.data == "setting"]
            arm = next((name for name in trained if not self.runs.makes_no_images(setting, name)), BASELINE)
            train: ImageData = make(self.runs.config(setting, arm)["data"], self.runs.allow)
            chosen: DataOfStudy | None = getattr(place, split)
            if chosen is not None and chosen.path is not None:
                reference: ImageData | None = from_spec(self.runs.filled(chosen.path), **chosen.settings)
                if chosen.rows is not None and reference is not None:
                    reference = part(reference, chosen.rows, split)
            else:
                reference = train.holdout() if split == "holdout" else None
            if reference is None:
                raise ValueError(
                    f"the images of {setting} have no {split}: name some in the study, settings.{setting}.{split}: "
                    "{path: DATA/FILE}"
                )
            self._real[setting] = RealImages(train.alike(reference), train)
        return self._real[setting]

    def references(self, setting: str) -> list[Reference]:
        """The real images of a setting in every feature space."""
        if setting not in self._references:
            real = self.real(setting)
            made = []
            for name, word in self.runs.study.features_on(setting).items():
                network = (
                    encoder(real)
                    if word == "encoder"
                    else feature_network(self.runs.filled(word), real.reference, real.train)
                )
                network.name = network.name if network.name.startswith(name) else name
                network = network.to(default_device())
                train = None if real.train is None else real.train.images()
                images = real.reference.images()
                made.append(Reference(images, network, train=train, alike=real.alike, cache=cache_folder()))
            self._references[setting] = made
        return self._references[setting]


def in_turn(classes: list[int] | int, n: int) -> Tensor:
    """[n] the classes in turn; a number stands for so many of them, as older files have it."""
    chosen = torch.arange(classes) if isinstance(classes, int) else torch.tensor(classes)
    return chosen[torch.arange(n) % len(chosen)]


def encoder(real: RealImages) -> Backbone:
    """The small classifier through which the discriminators of the recipes see these images.

    Raises:
        ValueError: the images have no labels.
    """
    labels = None if real.train is None else real.train.labels()
    if real.train is None or labels is None:
        raise ValueError("`features=encoder` needs images with labels: name a file of weights instead")
    net = SmallConvNet(in_channels=real.train.image_shape[0], num_classes=real.train.num_classes)
    net.to(default_device()).prepare(real.train.images(), labels)
    return freeze(net)


def part(data: ImageData, shares: Sequence[float], name: str) -> ImageData:
    """Rows of a data set from one share to another of a fixed random order."""
    first, last = (round(share * len(data)) for share in shares)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[first:last].tolist()
    images, labels = data[order]
    labels = labels if isinstance(labels, Tensor) else None
    named = f"{data.name}:{name} {shares[0]:g} to {shares[1]:g}"
    return StoredImages(images, labels, name=named, num_classes=data.num_classes)
