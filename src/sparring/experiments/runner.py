"""Runs a study: trains what is missing, samples each run once, and measures the samples in every feature space.

A run lies in OUT/SETTING/seed0/ARM. What is finished is kept, so that a study can be stopped and started again, can run
beside itself for other seeds, and shares runs with other studies that have an arm with the same settings.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from sparring.backbones import Backbone, SmallConvNet, freeze
from sparring.data import ImageData, StoredImages, from_spec
from sparring.data.base import in_range
from sparring.data.waiting import counted, in_words
from sparring.evaluation import RealImages
from sparring.evaluation.features import cache_folder, feature_network
from sparring.evaluation.pairs import sources_of, with_pairs
from sparring.evaluation.points import with_points
from sparring.experiments.study import BASELINE, DataOfStudy, Study, as_flags, replaced
from sparring.generators import Generator
from sparring.methods.method import Method
from sparring.metrics import Reference
from sparring.networks.device import default_device
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.recipes.with_systems import class_of, made
from sparring.runs import is_run
from sparring.runs.checkpoint import digest, steps_in
from sparring.runs.classes import find, make
from sparring.runs.folder import CONFIG
from sparring.runs.pictures import POINTS, to_uint8
from sparring.runs.results import Result, keep_result, measures_of, read_results
from sparring.samplers import Sampler

Say = Callable[[str], None]
NOTHING: dict[str, Any] = {"trainer": {"steps": 0}}
"""What is trained of an arm that only samples another."""
NO_RUN = ""


@dataclass
class Runner:
    """Makes the runs of a study.

    Args:
        study: what to make.
        out: folder of the runs.
        data: folder that DATA stands for in the study.
        allow: further packages whose classes the recipes may name.
        say: takes a line of progress.

    Raises:
        ValueError: the study needs `data`.
    """

    study: Study
    out: Path
    data: Path | None = None
    allow: list[str] = field(default_factory=list)
    say: Say = print
    _configs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict, init=False)
    _real: dict[str, RealImages] = field(default_factory=dict, init=False)
    _references: dict[str, list[Reference]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.data is None and (needed := self.study.files()):
            raise ValueError(f"the study {self.study.name} needs --data FOLDER, with {', '.join(needed)}")

    def run(self, seeds: Sequence[int], arms: Sequence[str]) -> None:
        """Trains, samples and measures what is missing of these seeds and arms.

        Raises:
            ValueError: what a recipe or a data set refuses; a run that is there was trained with other settings.
            Interrupted: a signal asked to stop; what is done is kept.
        """
        tasks = [(setting, seed, arm) for setting in self.study.settings for seed in seeds for arm in arms]
        for setting, seed, arm in tasks:  # refuses what is wrong before anything is trained
            self.config(setting, arm)
            self.check_same(setting, seed, arm)
        clock = Clock()
        for number, (setting, seed, arm) in enumerate(tasks, start=1):
            started = time.monotonic()
            self.check_same(setting, seed, arm)  # again: what it starts from may have been trained by now
            trained = self.train(setting, seed, arm)
            measured = self.measure(setting, seed, arm)
            if trained or measured:
                clock.add(setting, arm, time.monotonic() - started)
            rest = [task for task in tasks[number:] if last_step(self.folder(*task)) < self.steps(task[0], task[2])]
            left = clock.left([(setting, arm) for setting, _, arm in rest])
            self.say(
                f"[{number}/{len(tasks)}] {setting}, seed {seed}, {arm}: {counted(trained, 'step')}, "
                f"{counted(measured, 'measurement')}" + (f"; about {in_words(left)} left" if left else "")
            )

    def folder(self, setting: str, seed: int, arm: str) -> Path:
        return self.out / setting / f"seed{seed}" / arm

    def only_samples(self, setting: str, arm: str) -> bool:
        """Whether an arm has no run of its own on a setting, and samples that of another arm or setting."""
        return self.study.arms[arm].of is not None or self.study.settings[setting].of is not None

    # -- training ------------------------------------------------------------------------------------------------------

    def train(self, setting: str, seed: int, arm: str) -> int:
        """Trains a run, goes on with it if it was stopped, or keeps it; returns the steps that were made."""
        run, steps = self.folder(setting, seed, arm), self.steps(setting, arm)
        if self.only_samples(setting, arm):
            run.mkdir(parents=True, exist_ok=True)
            (run / CONFIG).write_text(
                yaml.safe_dump(self.config(setting, arm) | {"trainer": {"seed": seed, "steps": 0}})
            )
            return 0
        if not is_run(run):
            content, flags, init, header = self.recipe_of(setting, arm, seed)
            if init is not None:
                header["weights_of_start"] = weights_of(Path(init))
            recipe.build(content, flags, out=run, init=init, header=header).fit()
            return steps
        before = last_step(run)
        if before < steps:
            recipe.rebuild(run, [], self.allow).fit(resume=True)
        return steps - before

    def steps(self, setting: str, arm: str) -> int:
        """Updates of an arm."""
        return self.config(setting, arm)["trainer"]["steps"]

    def recipe_of(
        self, setting: str, arm: str, seed: int
    ) -> tuple[dict[str, Any], list[str], str | None, dict[str, Any]]:
        """Recipe, flags, start and header of a run, as `sparring fit` has them."""
        chosen, place = self.study.arms[arm], self.study.settings[setting]
        on, tuned = place.on or setting, chosen.start != "scratch"
        base = self.folder(setting, seed, BASELINE).absolute()
        content = compose(chosen.recipe, on, tuned=tuned)
        recipe.check_classes(content, self.allow)
        as_baseline = arm == BASELINE or chosen.data == BASELINE
        images = place.baseline_data if as_baseline and place.baseline_data else place.data
        flags = []
        if images is not None:
            if images.path is not None:
                content["data"] = recipe.data_section(self.filled(images.path), content)
            flags = as_flags({f"data.{name}": value for name, value in images.settings.items()}, {})
        own = (place.tune if tuned else place.scratch) | chosen.flags
        steps = round(own.pop("trainer.steps", content["trainer"]["steps"]) * chosen.steps)
        fixed = {"trainer.tracker": None, "trainer.steps": steps, "trainer.seed": seed}
        flags += as_flags(own | fixed, self.words | {"BASELINE": str(base)})
        init = str(self.folder(setting, seed, chosen.start).absolute()) if tuned else None
        return content, flags, init, {"recipe": chosen.recipe, "setting": on, "init": init, "allow": self.allow}

    def config(self, setting: str, arm: str) -> dict[str, Any]:
        """All settings of an arm with seed 0."""
        if (chosen := self.study.arms[arm]).of is not None:
            words = [one["name"] for one in chosen.sampling.get("with", [])] or ["sampled"]
            return {"of": chosen.of, "sampling": chosen.sampling, "method": {"class_path": "+".join(words)}, **NOTHING}
        if (of := self.study.settings[setting].of) is not None:
            return self.config(of, arm) | {"of": arm, "sampling": chosen.sampling, **NOTHING}
        if (setting, arm) not in self._configs:
            try:
                content, flags, init, _ = self.recipe_of(setting, arm, 0)
                self._configs[setting, arm] = recipe.resolved(*recipe.resolve(content, flags, init, self.allow))
            except ValueError as error:
                raise ValueError(f"arm {arm!r} on {setting}: {error}") from None
        return self._configs[setting, arm]

    def check_same(self, setting: str, seed: int, arm: str) -> None:
        """Refuses a run that is there and was trained with other settings than its arm has now."""
        run = self.folder(setting, seed, arm)
        if not is_run(run):
            return
        self.check_images(setting, seed, arm)
        if self.only_samples(setting, arm):
            return
        first, own = (f"{self.folder(setting, number, BASELINE).parent.absolute()}/" for number in (0, seed))
        wanted = yaml.safe_load(yaml.safe_dump(self.config(setting, arm), width=10_000).replace(first, own))
        wanted["trainer"]["seed"] = seed
        found = recipe.read_config(run)
        for section, settings in wanted.items():
            if difference := first_difference(settings, found.get(section), section):
                name, new, old = difference
                raise ValueError(
                    f"{run} was trained with `{name}={old}`, and the arm {arm!r} has {new}: remove the run, or give "
                    "another folder with --out"
                )

        source = self.folder(setting, seed, self.study.arms[arm].start)
        if found.get("weights_of_start", NO_RUN) not in (NO_RUN, now := weights_of(source)) and now != NO_RUN:
            raise ValueError(f"{source} was trained anew since {run} started from it: remove {run}, too")

    def check_images(self, setting: str, seed: int, arm: str) -> None:
        """Refuses images that were sampled in another way than the arm is now, or from weights that have changed."""
        run, now = self.folder(setting, seed, arm), self.drawn_from(setting, seed, arm)
        for beside in sorted((run / "images").glob("*.json")):
            known = json.loads(beside.read_text())
            if known.get("sampling", now["sampling"]) != now["sampling"]:
                raise ValueError(
                    f"{run} was sampled as {known['sampling']}: remove it, or give another folder with --out"
                )
            before = known.get("weights", now["weights"])
            changed = [name for name, digest in now["weights"].items() if digest not in (before.get(name), NO_RUN)]
            if changed:
                raise ValueError(
                    f"{run} holds images that other weights of {changed[0]!r} made: remove it, or give another folder "
                    "with --out"
                )

    def drawn_from(self, setting: str, seed: int, arm: str) -> dict[str, Any]:
        """How an arm is sampled, and the weights of each run that takes part in it."""
        chosen, trained = self.study.arms[arm], self.study.settings[setting].of or setting
        systems = str(chosen.sampling.get("with", ""))
        names = [chosen.of or arm, *(name for name in self.study.arms if f"ARMS/{name}'" in systems)]
        return {
            "sampling": chosen.sampling,
            "weights": {name: weights_of(self.folder(trained, seed, name)) for name in names},
        }

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measure(self, setting: str, seed: int, arm: str) -> int:
        """Samples a run with every sampler once, keeps the images, and measures them in every feature space.

        What makes no images is not measured.

        Returns:
            How many measurements were made; those that are there are kept.
        """
        run, chosen = self.folder(setting, seed, arm), self.study.arms[arm]
        if self.makes_no_images(setting, arm):
            return 0
        trained = self.study.settings[setting].of or setting
        source, real, made = self.folder(trained, seed, chosen.of or arm), self.real(setting), 0
        sampler: Sampler | None = None
        settings: dict[str, Any] = {}
        for scheduler, nfe in [(name, n) for name, calls in self.study.samplers_of(arm).items() for n in calls]:
            there = {(one.features, one.scheduler, one.nfe) for one in read_results(run) if self.belongs(one, arm)}
            missing = [one for one in self.references(setting) if (one.name, scheduler, nfe) not in there]
            if not missing:
                continue
            settings = settings or self.sampling(setting, seed, arm)
            file = run / "images" / f"{scheduler}-{nfe}-n{self.study.n}.npy"
            if not file.is_file():
                sampler = sampler or Sampler(source, allow=self.allow)
                how = self.drawn_from(setting, seed, arm)
                self.draw(sampler, scheduler, nfe, settings, real.reference, file, how)
            images = in_range(torch.from_numpy(np.load(file)))
            beside = file.with_suffix(".json")
            known = json.loads(beside.read_text()) if beside.is_file() else {"calls": None, "classes": None}
            asked = None if known["classes"] is None else in_turn(known["classes"], len(images))
            found = [one.measures(images) for one in settings["using"]]
            wanted = {name: float(values.mean()) for one in found for name, values in one.items()}
            for space in missing:
                result = replace(
                    space.evaluate(images, labels=asked, pairs=0),
                    nfe=nfe,
                    calls=known["calls"],
                    scheduler=scheduler,
                    seed=0,
                    split=self.study.split,
                    reference=real.reference.name,
                    train=None if real.train is None else real.train.name,
                    measures=(measures_of(run) or {}) | wanted or None,
                )
                if real.reference.image_shape == POINTS:
                    result = with_points(result, images, real.reference, real.train)
                if real.reference.source_shape is not None:
                    result = with_pairs(result, images, real.reference)
                keep_result(run, result)
                made += 1
        return made

    def makes_no_images(self, setting: str, arm: str) -> bool:
        """Whether what an arm trains only guides others, or is only added to them."""
        if self.only_samples(setting, arm):
            return False
        config = self.config(setting, arm)
        guide = str((config.get("generator") or {}).get("class_path")).endswith(".Guide")
        return guide or find(config["method"]["class_path"]).beside is not Method.beside

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
            own["sources"] = sources_of(reference, self.study.n)
        steps = steps_of(sampler.generator, scheduler, nfe)
        drawn = sampler(self.study.n, steps, scheduler=scheduler, seed=0, **own, **settings)
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".json").write_text(json.dumps({"calls": drawn.calls, "classes": asked} | how))
        draft = file.with_suffix(".draft.npy")
        np.save(draft, (to_uint8(drawn.images) if drawn.images.shape[1] in (1, 3) else drawn.images).numpy())
        draft.replace(file)

    def sampling(self, setting: str, seed: int, arm: str) -> dict[str, Any]:
        """What is added to the sampler of an arm, as settings of a `Sampling`."""
        said = dict(self.study.arms[arm].sampling)
        using = []
        for system in said.pop("with", []):
            trained = self.study.settings[setting].of or setting
            words = self.words | {"ARMS": str((self.out / trained / f"seed{seed}").absolute())}
            flags = as_flags({name: value for name, value in system.items() if name != "name"}, words)
            using.append(made(class_of(system["name"]), system["name"], flags, self.allow))
        if said.get("guidance_interval") is not None:
            said["guidance_interval"] = tuple(said["guidance_interval"])
        return said | {"using": using}

    def belongs(self, result: Result, arm: str) -> bool:
        """Whether a result was measured as the study does: its split, number of images and samplers."""
        same = (result.n, result.split, result.seed) == (self.study.n, self.study.split, 0)
        return same and result.nfe in self.study.samplers_of(arm).get(str(result.scheduler), [])

    def real(self, setting: str) -> RealImages:
        """The images that the arms were trained on, and those of the split.

        Raises:
            ValueError: there are none.
        """
        if setting not in self._real:
            place, split = self.study.settings[setting], self.study.split
            arms = self.study.arms.items()
            trained = [name for name, one in arms if name != BASELINE and one.of is None and one.data == "setting"]
            arm = next(iter(trained), BASELINE)
            train: ImageData = make(self.config(setting, arm)["data"], self.allow)
            chosen: DataOfStudy | None = getattr(place, split)
            if chosen is not None and chosen.path is not None:
                reference: ImageData | None = from_spec(self.filled(chosen.path), **chosen.settings)
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
            for name, word in self.study.features_on(setting).items():
                network = (
                    encoder(real)
                    if word == "encoder"
                    else feature_network(self.filled(word), real.reference, real.train)
                )
                network.name = network.name if network.name.startswith(name) else name
                train = None if real.train is None else real.train.images()
                made.append(
                    Reference(real.reference.images(), network.to(default_device()), train=train, cache=cache_folder())
                )
            self._references[setting] = made
        return self._references[setting]

    @property
    def words(self) -> dict[str, str]:
        """What stands for something else in text."""
        return {} if self.data is None else {"DATA": str(self.data.absolute())}

    def filled(self, text: str) -> str:
        return replaced(text, self.words)


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
    return StoredImages(images, labels, name=f"{data.name}:{name}", num_classes=data.num_classes)


def steps_of(generator: Generator, scheduler: str, nfe: int) -> int:
    """Steps in which a scheduler calls the network so many times; Heun's method calls it twice in all but the last.

    Raises:
        ValueError: it never does.
    """
    for steps in range(nfe, 0, -1):
        if generator.plan(steps, scheduler)[1] == nfe:
            return steps
    raise ValueError(f"`samplers: {{{scheduler}: [{nfe}]}}`: no number of steps takes {nfe} network calls")


def weights_of(run: Path) -> str:
    """Digest of the weights that a run ships; `NO_RUN` without any."""
    files = sorted((run / "pipeline").rglob("*.safetensors"))
    found = "".join(digest_of(file, file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256(found.encode()).hexdigest()[:16] if files else NO_RUN


@cache
def digest_of(file: Path, changed: int) -> str:
    """Digest of a file, read once for each time at which it was changed."""
    return digest(file)


def last_step(run: Path) -> int:
    """Updates behind a run's newest checkpoint."""
    return max(steps_in(run / "checkpoints"), default=0)


def first_difference(new: Any, old: Any, name: str) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first setting in which two configurations differ."""
    if isinstance(new, dict) and isinstance(old, dict):
        keys = dict.fromkeys([*new, *old])
        return next(
            (found for key in keys if (found := first_difference(new.get(key), old.get(key), f"{name}.{key}"))), None
        )
    return None if new == old else (name, new, old)


class Clock:
    """How long the rest of a study takes, by what the same arms took."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}

    def add(self, setting: str, arm: str, seconds: float) -> None:
        self.seconds.setdefault((setting, arm), []).append(seconds)

    def left(self, tasks: Sequence[tuple[str, str]]) -> float | None:
        """Seconds for these settings and arms; None if nothing is known yet."""
        if not self.seconds:
            return None
        usual = fmean(fmean(seconds) for seconds in self.seconds.values())
        return sum(fmean(self.seconds.get(task, [usual])) for task in tasks)
