"""A study as a YAML file: arms, trained from one baseline over seeds on some settings, and how they are measured."""

import difflib
import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from sparring.recipes.compose import HERE, parsed, shipped

BASELINE = "baseline"
ONE_CALL = "one call"
"""The sampler of generators that have none."""
FEWEST = 6
"""Images of a number: one more than the neighbours that recall and coverage look at."""
Flags = dict[str, Any]
"""Settings of `sparring fit` by name, such as {"trainer.steps": 500}."""
Samplers = dict[str, list[int]]
"""Network calls by scheduler."""


class Section:
    """A part of the file: a mapping with the fields of a dataclass as keys."""

    @classmethod
    def read(cls, where: str, value: Any) -> Self:
        """The section that a mapping holds.

        Raises:
            ValueError: not a mapping, an unknown key, a missing one, or a value that cannot be.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a mapping, and is {value!r}")
        known = {part.name: part for part in fields(cls)}  # type: ignore[arg-type]
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"it may hold {', '.join(known)}"
                raise ValueError(f"{where}: unknown key {key!r}: {hint}")
        for name, part in known.items():
            if name not in value and part.default is MISSING and part.default_factory is MISSING:
                raise ValueError(f"{where}: `{name}` is missing")
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _check_flags(name: str, flags: Flags) -> None:
    if not isinstance(flags, dict) or not all(isinstance(key, str) for key in flags):
        raise ValueError(f"`{name}` must be a mapping such as {{trainer.steps: 500}}, and is {flags!r}")


def _check_features(features: dict[str, str]) -> None:
    if (
        not isinstance(features, dict)
        or not features
        or not all(isinstance(x, str) for x in (*features, *features.values()))
    ):
        raise ValueError(f"`features` must be a mapping such as {{pixels: pixels}}, and is {features!r}")
    for name in features:
        if same := [other for other in features if other != name and other.startswith(name)]:
            raise ValueError(f"`features`: {same[0]!r} begins with {name!r}: give names that tell them apart")


def _check_samplers(samplers: Samplers) -> None:
    good = isinstance(samplers, dict) and all(
        isinstance(name, str) and isinstance(calls, list) and calls and all(type(n) is int and n > 0 for n in calls)
        for name, calls in samplers.items()
    )
    if not good or not samplers:
        raise ValueError(f"`samplers` must give network calls by scheduler, {{ddim: [5, 10]}}, and is {samplers!r}")


@dataclass(frozen=True, kw_only=True)
class ArmOfStudy(Section):
    """One arm.

    Args:
        recipe: method that it is trained by.
        of: arm whose run it samples in another way, in place of a recipe; nothing is trained.
        sampling: how the arm is sampled, beside scheduler and network calls: `guidance`, `guidance_interval`, and
            `with`, a list of systems as `sparring sample --with` takes them, {name: NAME, SETTING: VALUE}. In their
            text, ARMS/NAME stands for the run of another arm with the same seed.
        average: of an arm with `of`, which weights of that run are sampled: {at: 0.5}, its average after half of its
            steps, or {std: 0.1}, one of this width (`trainer.ema_snapshots`).
        curve: shares of its steps after which it is measured as well, such as [0.25, 0.5]; for each there is a further
            arm, "NAME at 0.25".
        flags: settings of `sparring fit` by which it differs. In text, DATA stands for the folder of `--data` and
            BASELINE for the run of the baseline.
        steps: its updates, in units of those that the recipe has on the setting.
        start: "baseline", or the name of an arm before it; or "scratch" for the same first weights as the baseline.
        data: "setting", or "baseline" to train it on the images of the baseline.
        control_of: arms to which it is a control, or "all": tables give their distance over its own, and verdicts
            compare them with it if its method is plain diffusion.
        samplers: its own, instead of those of the study; {}: it is not measured, only others are sampled with it.
    """

    recipe: str = ""
    of: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    average: dict[str, float] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    flags: Flags = field(default_factory=dict)
    steps: float = 1.0
    start: str = "baseline"
    data: Literal["setting", "baseline"] = "setting"
    control_of: list[str] | Literal["all"] = field(default_factory=list)
    samplers: Samplers | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, str) or bool(self.recipe) == (self.of is not None):
            what = f"`recipe={self.recipe}`" if self.recipe else "`recipe` is missing:"
            raise ValueError(f"{what} it must be the name of a recipe, or `of` that of an arm, and not both")
        known = {"guidance", "guidance_interval", "with"}
        if not isinstance(self.sampling, dict) or not set(self.sampling) <= known:
            raise ValueError(f"`sampling` may hold {', '.join(sorted(known))}, and is {self.sampling!r}")
        systems = self.sampling.get("with", [])
        if not isinstance(systems, list) or not all(
            isinstance(one, dict) and isinstance(one.get("name"), str) for one in systems
        ):
            raise ValueError(f"`sampling.with` must be a list such as [{{name: autoguidance}}], and is {systems!r}")
        if self.of is not None and not isinstance(self.of, str):
            raise ValueError(f"`of={self.of}` must be the name of an arm")
        if self.average != {} and (self.of is None or not isinstance(self.average, dict) or len(self.average) != 1):
            raise ValueError(f"`average` needs `of`, and must be {{at: SHARE}} or {{std: WIDTH}}: {self.average!r}")
        if self.average.keys() - {"at", "std"} or not all(isinstance(one, float) for one in self.average.values()):
            raise ValueError(f"`average` must be {{at: SHARE}} or {{std: WIDTH}}, and is {self.average!r}")
        points = [*self.curve, self.average.get("at", 0.5)] if isinstance(self.curve, list) else [0]
        if not all(isinstance(share, float) and 0 < share < 1 for share in points) or (self.curve and self.of):
            raise ValueError(f"`curve` and `average.at` must be shares of the steps, such as 0.25: {points}")
        if not isinstance(self.steps, int | float) or isinstance(self.steps, bool) or not 0 < self.steps < math.inf:
            raise ValueError(f"`steps={self.steps}` must be a factor above 0")
        if self.data not in ("setting", "baseline"):
            raise ValueError(f"`data={self.data}` must be setting or baseline")
        if self.control_of != "all" and not isinstance(self.control_of, list):
            raise ValueError(f"`control_of={self.control_of}` must be a list of arms, or all")
        _check_flags("flags", self.flags)
        if self.samplers:
            _check_samplers(self.samplers)


@dataclass(frozen=True, kw_only=True)
class DataOfStudy(Section):
    """Images.

    Args:
        path: a word for a data set, as `sparring fit --data` takes it, in which DATA stands for the folder of `--data`;
            None: that of the recipes' setting.
        settings: of the data set, such as {size: 16}.
        rows: (from, to), shares of a fixed random order of the rows; only for images that are measured against.
    """

    path: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.settings, dict) or not all(isinstance(name, str) for name in self.settings):
            raise ValueError(f"`settings={self.settings}` must be a mapping of names")
        if self.path is not None and not isinstance(self.path, str):
            raise ValueError(f"`path={self.path}` must be a word for a data set")
        if self.rows is not None and not (
            isinstance(self.rows, list)
            and len(self.rows) == 2
            and all(isinstance(share, int | float) for share in self.rows)
            and 0 <= self.rows[0] < self.rows[1] <= 1
        ):
            raise ValueError(f"`rows={self.rows}` must be two shares, such as [0, 0.2]")


@dataclass(frozen=True, kw_only=True)
class SettingOfStudy(Section):
    """Where the arms are trained and measured.

    Args:
        on: setting of the recipes; None: that of the same name.
        of: setting before it whose runs are measured here against other images, in place of runs of its own.
        data: training images, if they are not those of the recipes' setting.
        scratch: flags of the baseline and of other arms that are trained from scratch.
        tune: flags of the arms that start from the baseline.
        baseline_data: training images of the baseline, if they are others than those of the arms.
        validation: real images of the split "validation".
        holdout: real images of the split "holdout"; None: those that the training images name.
        features: instead of those of the study.
    """

    on: str | None = None
    of: str | None = None
    data: DataOfStudy | None = None
    scratch: Flags = field(default_factory=dict)
    tune: Flags = field(default_factory=dict)
    baseline_data: DataOfStudy | None = None
    validation: DataOfStudy | None = None
    holdout: DataOfStudy | None = None
    features: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _check_flags("scratch", self.scratch)
        _check_flags("tune", self.tune)
        if self.features is not None:
            _check_features(self.features)
        for name in ("data", "baseline_data", "validation", "holdout"):
            value = getattr(self, name)
            if value is not None:
                images = DataOfStudy.read(name, value)
                object.__setattr__(self, name, images)
                if images.rows is not None and name in ("data", "baseline_data"):
                    raise ValueError(f"{name}: `rows={images.rows}` is for images that are measured against")
                if images.path is None and name in ("validation", "holdout"):
                    raise ValueError(f"{name}: `path` is missing: which images?")
        trained = (self.on, self.data, self.baseline_data, self.scratch or None, self.tune or None)
        if self.of is not None and trained != (None,) * 5:
            raise ValueError(f"`of={self.of}`: nothing is trained here, so it may only say what is measured against")

    def texts(self) -> list[str]:
        """Values in which DATA may stand for a folder."""
        images = [self.data, self.baseline_data, self.validation, self.holdout]
        flags = [*self.scratch.values(), *self.tune.values()]
        return [str(x) for x in (*(one.path for one in images if one), *flags, *(self.features or {}).values())]


@dataclass(frozen=True, kw_only=True)
class Study(Section):
    """Arms x seeds x settings.

    Args:
        name: of its file, without the ending.
        settings: where the arms are trained and measured, by name.
        arms: by name, in the order of the tables. There is always one called "baseline", from which the others start.
        samplers: network calls by scheduler; "one call" is that of a generator without one.
        seeds: of the trainings.
        n: images that are sampled for a number.
        split: "validation" for choosing, "holdout" for the final numbers.
        features: what distances are measured in, by the name in the tables: words of `sparring evaluate --features`, or
            "encoder", the small classifier through which the discriminators of the recipes see.
    """

    name: str
    settings: dict[str, SettingOfStudy]
    arms: dict[str, ArmOfStudy]
    samplers: Samplers
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    n: int = 1000
    split: Literal["validation", "holdout"] = "holdout"
    features: dict[str, str] = field(
        default_factory=lambda: {
            "classifier": "classifier",
            "the discriminator's encoder": "encoder",
            "self-supervised": "self-supervised",
            "pixels": "pixels",
        }
    )

    def __post_init__(self) -> None:
        for part, kind in (("settings", SettingOfStudy), ("arms", ArmOfStudy)):
            value = getattr(self, part)
            if not isinstance(value, dict) or not value:
                raise ValueError(f"`{part}` must be a mapping of names")
            read = {str(name): kind.read(f"{part}.{name}", {} if one is None else one) for name, one in value.items()}
            object.__setattr__(self, part, read)
        _check_samplers(self.samplers)
        if BASELINE not in self.arms and ONE_CALL in self.samplers:
            raise ValueError(
                f"`samplers` has {ONE_CALL!r}, and the baseline would be plain diffusion, which has none such: add an "
                "arm, `baseline: {recipe: gan, start: scratch, control_of: all}`"
            )
        if BASELINE not in self.arms:
            object.__setattr__(self, "arms", {BASELINE: ArmOfStudy(recipe="diffusion", start="scratch")} | self.arms)
        if self.arms[BASELINE].start != "scratch":
            raise ValueError("arms.baseline: `start` must be scratch")
        object.__setattr__(self, "arms", with_curves(self.arms))
        before: list[str] = []
        for name, place in self.settings.items():
            if place.of is not None and (place.of not in before or self.settings[place.of].of is not None):
                raise ValueError(f"settings.{name}: `of={place.of}` is no setting before it with runs of its own")
            before.append(name)
        names = list(self.arms)
        for name, arm in self.arms.items():
            before = names[: names.index(name)]
            trained = [one for one in before if self.arms[one].of is None]
            if arm.start not in (BASELINE, "scratch", *trained):
                raise ValueError(f"arms.{name}: `start={arm.start}` must be baseline, scratch or an arm before it")
            if arm.of is not None and arm.of not in trained:
                raise ValueError(f"arms.{name}: `of={arm.of}` is no arm before it that is trained")
            if lost := [one for one in self.partners(name) if one not in trained]:
                raise ValueError(f"arms.{name}: `sampling` names ARMS/{lost[0]}, which is no arm before it")
            for other in arm.control_of if arm.control_of != "all" else ():
                if other not in self.arms:
                    raise ValueError(f"arms.{name}: `control_of` names {other!r}, and there are {', '.join(self.arms)}")
        if "/" in "".join([*self.arms, *self.settings]) or "" in self.arms or "" in self.settings:
            raise ValueError("names of arms and settings are those of folders, and cannot hold a slash or be empty")
        _check_features(self.features)
        check_seeds(self.seeds)
        if type(self.n) is not int or self.n < FEWEST:
            raise ValueError(f"`n={self.n}` must be a number of images, {FEWEST} or more")
        if self.split not in ("validation", "holdout"):
            raise ValueError(f"`split={self.split}` must be validation or holdout")

    def with_needed(self, chosen: Sequence[str]) -> list[str]:
        """These arms in the order of the tables, those that they start from or sample, and points of their curves."""
        needed: set[str | None] = set(chosen)
        for name in reversed(self.arms):
            if name in needed:
                needed |= {self.arms[name].start, self.arms[name].of, *self.partners(name)}
        return [name for name, arm in self.arms.items() if name in needed or (self.is_point(name) and arm.of in needed)]

    def partners(self, arm: str) -> list[str]:
        """Other arms whose runs take part in the sampling of this one: each ARMS/NAME of its systems."""
        values = [value for system in self.arms[arm].sampling.get("with", []) for value in system.values()]
        parts = [str(one).split("/") for value in values for one in (value if isinstance(value, list) else [value])]
        return list(dict.fromkeys(part[1] for part in parts if part[0] == "ARMS" and len(part) > 1))

    def is_point(self, arm: str) -> bool:
        """Whether an arm is a point of another's curve."""
        return any(arm == f"{name} at {share:g}" for name, one in self.arms.items() for share in one.curve)

    def files(self) -> list[str]:
        """What the study needs in the folder that DATA stands for."""
        texts = [text for setting in self.settings.values() for text in setting.texts()]
        texts += [str(value) for arm in self.arms.values() for value in arm.flags.values()]
        texts += self.features.values()
        return sorted({text.removeprefix("DATA/") for text in texts if text.startswith("DATA/")})

    def samplers_of(self, arm: str) -> Samplers:
        own = self.arms[arm].samplers
        return self.samplers if own is None else own

    def features_on(self, setting: str) -> dict[str, str]:
        return self.settings[setting].features or self.features

    def controls_of(self, arm: str) -> list[str]:
        """The arms that are a control of this one; a point of a curve has none."""
        if self.is_point(arm):
            return []
        return [
            name
            for name, other in self.arms.items()
            if name != arm and (arm in other.control_of or (other.control_of == "all" and arm != BASELINE))
        ]


def with_curves(arms: dict[str, ArmOfStudy]) -> dict[str, ArmOfStudy]:
    """The arms, each followed by the points of its curve."""
    every = {}
    for name, arm in arms.items():
        points = {f"{name} at {share:g}": share for share in arm.curve}
        if taken := [point for point in points if point in arms]:
            raise ValueError(f"arms.{name}: `curve` makes an arm {taken[0]!r}, and there is one: call it otherwise")
        every[name] = arm
        for point, share in points.items():
            every[point] = ArmOfStudy(of=name, average={"at": share}, sampling=arm.sampling, samplers=arm.samplers)
    return every


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses what are not seeds, or the same ones twice."""
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise ValueError(f"`seeds={seeds}` must be a list of different numbers")
    if not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"`seeds={seeds}` must be whole numbers, 0 or more")


def read_study(name: str) -> Study:
    """The study of that name in the package, or of a YAML file.

    Raises:
        ValueError: no such study or file, not YAML, or a key or a value that a study cannot have.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"study file {name} does not exist")
        text, stem = Path(name).read_text(encoding="utf-8", errors="replace"), Path(name).stem
    else:
        names = list(shipped("studies"))
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"unknown study {name!r}: {hint} (a file ends in .yaml)")
        text = (HERE / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
        stem = name
    try:
        content = deepcopy(parsed(text))
    except yaml.YAMLError as error:
        raise ValueError(f"study {name} is not valid YAML ({' '.join(str(error).split())})") from None
    where = f"study {name}"
    if isinstance(content, dict):
        for setting in (content.get("settings") or {}).values() if isinstance(content.get("settings"), dict) else ():
            if isinstance(setting, dict) and True in setting:
                setting["on"] = setting.pop(True)  # as YAML 1.1 reads `on`
        content = {"name": stem} | content
    return Study.read(where, content)


def as_flags(settings: Flags, words: dict[str, str]) -> list[str]:
    """Flags of `sparring fit`, with words such as DATA in text replaced by what they stand for."""
    return [
        f"--{name}={replaced(value, words) if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    ]


def replaced(text: str, words: dict[str, str]) -> str:
    """Text with the words replaced that stand as a whole part of a path."""
    parts = text.split("/")
    return "/".join(words.get(part, part) for part in parts)
