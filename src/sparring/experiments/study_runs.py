"""The runs of a study: where they lie, what each is trained with, and whether what is there is still what is asked for.

A run lies in OUT/SETTING/seed0/ARM. What is finished is kept, so that a study can be stopped and started again, can run
beside itself for other seeds, and shares runs with other studies that have an arm with the same settings.
"""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import yaml

from sparring.experiments.study import BASELINE, Study, as_flags, replaced
from sparring.generators import Generator, Sampling
from sparring.methods.method import Method
from sparring.recipes import recipe
from sparring.recipes.average import write_average
from sparring.recipes.compose import compose
from sparring.recipes.with_systems import class_of, made
from sparring.runs import is_run
from sparring.runs.checkpoint import digest, steps_in
from sparring.runs.classes import find
from sparring.runs.folder import CONFIG
from sparring.runs.results import Result, read_results

NOTHING: dict[str, Any] = {"trainer": {"steps": 0}}
"""What is trained of an arm that only samples another."""
NO_RUN = ""
BASELINE_RUN = "BASELINE"
"""What stands for the run of the baseline in flags."""
MOST_POINTS = 100
"""Checkpoints of a run that is measured along its training."""


@dataclass
class StudyRuns:
    """The runs of a study.

    Args:
        study: what to make.
        out: folder of the runs.
        data: folder that DATA stands for in the study.
        allow: further packages whose classes the recipes may name.

    Raises:
        ValueError: the study needs `data`.
    """

    study: Study
    out: Path
    data: Path | None = None
    allow: list[str] = field(default_factory=list)
    _configs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.data is None and (needed := self.study.files()):
            raise ValueError(f"the study {self.study.name} needs --data FOLDER, with {', '.join(needed)}")

    def folder(self, setting: str, seed: int, arm: str) -> Path:
        return self.out / setting / f"seed{seed}" / arm

    def only_samples(self, setting: str, arm: str) -> bool:
        """Whether an arm has no run of its own on a setting, and samples that of another arm or setting."""
        return self.study.arms[arm].of is not None or self.study.settings[setting].of is not None

    def makes_no_images(self, setting: str, arm: str) -> bool:
        """Whether what an arm trains only guides others, or is only added to them."""
        if not self.study.samplers_of(arm):
            return True
        if self.only_samples(setting, arm):
            return False
        config = self.config(setting, arm)
        guide = str((config.get("generator") or {}).get("class_path")).endswith(".Guide")
        return guide or find(config["method"]["class_path"]).beside is not Method.beside

    def belongs(self, result: Result, arm: str) -> bool:
        """Whether a result was measured as the study does: its split, number of images and samplers."""
        same = (result.n, result.split, result.seed) == (self.study.n, self.study.split, 0)
        return same and result.nfe in self.study.samplers_of(arm).get(str(result.scheduler), [])

    def is_trained(self, setting: str, seed: int, arm: str) -> bool:
        """Whether the run of an arm is there, and at its end."""
        run = self.folder(setting, seed, arm)
        return is_run(run) and (self.only_samples(setting, arm) or last_step(run) >= self.steps(setting, arm))

    def is_measured(self, setting: str, seed: int, arm: str) -> bool:
        """Whether an arm was sampled with each of its samplers, and measured in each feature space."""
        results = read_results(self.folder(setting, seed, arm))
        there = [(one.scheduler, one.nfe, one.features or "") for one in results if self.belongs(one, arm)]
        return self.makes_no_images(setting, arm) or all(
            any((scheduler, nfe) == (one, calls) and features.startswith(name) for scheduler, nfe, features in there)
            for one, every in self.study.samplers_of(arm).items()
            for calls in every
            for name in self.study.features_on(setting)
        )

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
            trainer = self.trainer(setting, seed, arm)
            try:
                trainer.fit()
            except ValueError as error:
                raise ValueError(f"arm {arm!r} on {setting}: {error}") from None
            return steps
        before = last_step(run)
        if before < steps:
            recipe.rebuild(run, [], self.allow).fit(resume=True)
        return steps - before

    def trainer(self, setting: str, seed: int, arm: str) -> Any:
        """The trainer of a run that is not there yet.

        Raises:
            ValueError: its settings do not go together, or it cannot be sampled as the study does.
        """
        content, flags, init, header = self.recipe_of(setting, arm, seed)
        if init is not None:
            header["weights_of_start"] = weights_of(Path(init))
        try:
            trainer = recipe.build(content, flags, out=self.folder(setting, seed, arm), init=init, header=header)
            self.check_samplers(setting, arm, trainer.method.generator)
        except ValueError as error:
            raise ValueError(f"arm {arm!r} on {setting}: {error}") from None
        return trainer

    def can_start(self, setting: str, seed: int, arm: str) -> bool:
        """Whether a run is not there yet, and what it starts from is."""
        if self.only_samples(setting, arm) or is_run(self.folder(setting, seed, arm)):
            return False
        chosen = self.study.arms[arm]
        needed = {chosen.start} | ({BASELINE} if BASELINE_RUN in str(chosen.flags) else set())
        return all(one == "scratch" or self.is_trained(setting, seed, one) for one in needed)

    def check_samplers(self, setting: str, arm: str, generator: Generator) -> None:
        """Refuses network calls that a generator cannot be sampled in, by its own arm or another."""
        for name, chosen in self.study.arms.items():
            if arm == (chosen.of or name) and not self.makes_no_images(setting, name):
                for scheduler, calls in self.study.samplers_of(name).items():
                    for nfe in calls:
                        steps = steps_of(generator, scheduler, nfe)
                        generator.check_sampling(Sampling(n=1, steps=steps, scheduler=scheduler))

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
        if tuned:
            content = recipe.coupled(content, self.config(setting, chosen.start))
        recipe.check_classes(content, self.allow)
        as_baseline = arm == BASELINE or chosen.data == BASELINE
        images = place.baseline_data if as_baseline and place.baseline_data else place.data
        flags = []
        if images is not None:
            if images.path is not None:
                content["data"] = recipe.data_section(self.filled(images.path), content)
            flags = as_flags({f"data.{name}": value for name, value in images.settings.items()}, {})
        own = (place.tune if tuned else place.scratch) | chosen.flags
        asked = own.pop("trainer.steps", content["trainer"]["steps"])
        if type(asked) is not int or round(asked * chosen.steps) < 1:
            raise ValueError(f"`trainer.steps={asked}` times `steps={chosen.steps:g}` must be a number of updates")
        steps = round(asked * chosen.steps)
        fixed = {"trainer.tracker": None, "trainer.steps": steps, "trainer.seed": seed}
        if chosen.curve:
            points = [round(share * steps) for share in chosen.curve]
            every = gcd(steps, *points)
            if not 0 < min(points) <= max(points) < steps or steps > MOST_POINTS * every:
                raise ValueError(
                    f"`curve={chosen.curve}`: of {steps} steps these shares have no few checkpoints in common"
                )
            fixed |= {"trainer.checkpoint_every": every, "trainer.keep_checkpoints": steps}  # that of a stop, too
        flags += as_flags(own | fixed, self.words | {BASELINE_RUN: str(base)})
        init = str(self.folder(setting, seed, chosen.start).absolute()) if tuned else None
        return content, flags, init, {"recipe": chosen.recipe, "setting": on, "init": init, "allow": self.allow}

    def config(self, setting: str, arm: str) -> dict[str, Any]:
        """All settings of an arm with seed 0."""
        if (chosen := self.study.arms[arm]).of is not None:
            words = [one["name"] for one in chosen.sampling.get("with", [])] or ["sampled"]
            return {
                "of": chosen.of,
                "sampling": self.sampled_as(arm),
                "method": {"class_path": "+".join(words)},
                **NOTHING,
            }
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
        own = self.folder(setting, seed, BASELINE).parent.absolute()
        wanted, found = (moved(config, own) for config in (self.config(setting, arm), recipe.read_config(run)))
        wanted["trainer"]["seed"] = seed
        if any(first_difference(settings, found.get(section), section) for section, settings in wanted.items()):
            found = recipe.up_to_date(found)
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

    # -- sampling ------------------------------------------------------------------------------------------------------

    def sampled_as(self, arm: str) -> dict[str, Any]:
        """How an arm is sampled, and which average of its run."""
        chosen = self.study.arms[arm]
        return chosen.sampling | ({"average": chosen.average} if chosen.average else {})

    def source(self, setting: str, seed: int, arm: str) -> Path:
        """The folder that an arm samples: a run, or one of its averages, which is made when it is not there."""
        chosen, trained = self.study.arms[arm], self.study.settings[setting].of or setting
        run = self.folder(trained, seed, chosen.of or arm)
        if not chosen.average:
            return run
        ((word, value),) = chosen.average.items()
        out = self.folder(setting, seed, arm) / f"average-{word}-{value:g}-{weights_of(run)}"
        if not out.is_dir():
            step = round(value * self.steps(trained, chosen.of or arm)) if word == "at" else None
            draft = out.with_name("average-draft")
            shutil.rmtree(draft, ignore_errors=True)
            write_average(run, draft, std=value if word == "std" else None, step=step, allow=self.allow)
            draft.rename(out)
        return out

    def drawn_from(self, setting: str, seed: int, arm: str) -> dict[str, Any]:
        """How an arm is sampled, and the weights of each run that takes part in it."""
        chosen, trained = self.study.arms[arm], self.study.settings[setting].of or setting
        names = [chosen.of or arm, *self.study.partners(arm)]
        return {
            "sampling": self.sampled_as(arm),
            "weights": {name: weights_of(self.folder(trained, seed, name)) for name in names},
        }

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

    @property
    def words(self) -> dict[str, str]:
        """What stands for something else in text."""
        return {} if self.data is None else {"DATA": str(self.data.absolute())}

    def filled(self, text: str) -> str:
        return replaced(text, self.words)


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


def steps_of(generator: Generator, scheduler: str, nfe: int) -> int:
    """Steps in which a scheduler calls the network so many times; Heun's method calls it twice in all but the last.

    Raises:
        ValueError: it never does.
    """
    for steps in range(nfe, 0, -1):
        if generator.plan(steps, scheduler)[1] == nfe:
            return steps
    raise ValueError(f"`samplers: {{{scheduler}: [{nfe}]}}`: no number of steps takes {nfe} network calls")


def moved(value: Any, own: Path) -> Any:
    """A configuration in which the runs of a setting and a seed lie in `own`, wherever they did when it was written."""
    if isinstance(value, dict):
        return {key: moved(one, own) for key, one in value.items()}
    if isinstance(value, list):
        return [moved(one, own) for one in value]
    if isinstance(value, str):
        return re.sub(rf"^.*/{re.escape(own.parent.name)}/seed\d+(?=/)", lambda _: str(own), value)
    return value


def first_difference(new: Any, old: Any, name: str) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first setting in which two configurations differ."""
    if isinstance(new, dict) and isinstance(old, dict):
        keys = dict.fromkeys([*new, *old])
        return next(
            (found for key in keys if (found := first_difference(new.get(key), old.get(key), f"{name}.{key}"))), None
        )
    return None if new == old else (name, new, old)
