"""What was measured of a run: the type of a result, results.json, and the costs of the run's training."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, Self, get_args, get_type_hints

from sparring.runs.checkpoint import STATE, steps_in
from sparring.runs.folder import CONFIG, RunFolder, is_until

RESULTS = "results.json"

KEY = ("nfe", "scheduler", "n", "n_reference", "features", "seed", "split", "reference", "train", "step")
"""What tells two results of a run apart."""


class Setting(NamedTuple):
    """How images were drawn: the scheduler and the network calls (NFE) per image."""

    scheduler: str
    nfe: int

    def __str__(self) -> str:
        return f"{self.scheduler} {self.nfe}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Typed numbers that are kept as a JSON object; `more` holds further keys, of this or another version."""

    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The record that a JSON object holds.

        Raises:
            ValueError: it is not an object, a value has another type, or a needed key is missing.
        """
        if not isinstance(value, Mapping):
            raise ValueError("it is not an object")
        kinds = get_type_hints(cls)
        found: dict[str, Any] = {}
        for part in fields(cls):
            if part.name in value and part.name != "more":
                found[part.name] = _typed(part.name, value[part.name], kinds[part.name])
        missing = [name for name in cls.needed() if found.get(name) is None]
        if missing:
            raise ValueError(f"`{missing[0]}` is missing")
        return cls(**found, more={name: x for name, x in value.items() if name not in kinds})

    @classmethod
    def needed(cls) -> tuple[str, ...]:
        """Names of the values that no record may lack."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object: what is known, and `more`."""
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "more"}
        written = {name: x.to_json() if isinstance(x, Record) else x for name, x in values.items()}
        return {name: x for name, x in written.items() if x is not None or name in self.nullable()} | self.more

    def nullable(self) -> tuple[str, ...]:
        """Names that are written as null when nothing is known."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Floor(Record):
    """What real images score against other real images: the same numbers as a result's, on `n` images of `source`."""

    n: int | None = None
    source: str | None = None
    frechet: float | None = None
    kernel: float | None = None
    kernel_interval: tuple[float, float] | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    rare_share: float | None = None
    sliced_wasserstein: float | None = None
    modes_covered: int | None = None
    good_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """One measurement of generated images. None: not known, or not measured.

    `scheduler`, `nfe`, the `guidance`, the `seed` of the latents, `seconds` and `images_per_second` say how the images
    were drawn, `calls` how many passes through a network each of them took, guidance included (backwards counts two),
    and `step` after which training step; `reference`, `train` and `split` name the data, whose shape and pixels
    `reference_looks` describes, `features` the feature network; `n` images were measured against `n_reference` real
    ones; `measures` are those that the method takes of itself. What the numbers mean: docs/evaluation.md.
    """

    nfe: int | None = None
    scheduler: str | None = None
    guidance: float | None = None
    calls: float | None = None
    seed: int | None = None
    step: int | None = None
    split: str | None = None
    reference: str | None = None
    reference_looks: str | None = None
    train: str | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    frechet: float
    frechet_interval: tuple[float, float] | None = None
    frechet_resamples: list[float] | None = None
    kernel: float | None = None
    kernel_interval: tuple[float, float] | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    rare_share: float | None = None
    class_coverage: float | None = None
    rarest_class: float | None = None
    class_accuracy: float | None = None
    sliced_wasserstein: float | None = None
    modes_covered: int | None = None
    good_share: float | None = None
    psnr: float | None = None
    memorisation: float | None = None
    train_share: float | None = None
    n: int | None = None
    n_reference: int | None = None
    features: str | None = None
    closest_pairs: list[tuple[int, int, float]] | None = None
    measures: dict[str, float] | None = None
    floor: Floor | None = None

    @classmethod
    def needed(cls) -> tuple[str, ...]:
        return ("frechet",)

    def nullable(self) -> tuple[str, ...]:
        return "nfe", "scheduler", "reference", "train", "frechet_interval"

    @property
    def setting(self) -> Setting | None:
        """How the images were drawn; None for images of a folder."""
        return None if self.scheduler is None or self.nfe is None else Setting(self.scheduler, self.nfe)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A JSON value in the type that a field of a record declares."""
    kind = next((kind for kind in get_args(hint) if kind is not NoneType), hint)
    if value is None:
        return None
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_json(value)
    if kind == dict[str, float] and isinstance(value, dict):
        return {str(key): _typed(name, number, float) for key, number in value.items()}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    if isinstance(value, list) and kind not in (float, int, str):
        if kind == list[float]:
            return [_typed(name, one, float) for one in value]
        return tuple(value) if kind == tuple[float, float] else [tuple(pair) for pair in value]
    words = {float: "a number", int: "a whole number", str: "text"}
    raise ValueError(f"`{name}` is not {words.get(kind, 'a list')}")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run with its costs and what was measured of it at its present step: what `compare --json` prints of it.

    Attributes:
        arm: the name without its seed; runs of one arm are seeds of the same thing.
        method: class name, or "pipeline" for a folder of results that is no run.
        network_calls: forward passes of any denoiser in its own training.
        network_calls_before: those of the training that it started from; None when that is not known.
    """

    name: str
    folder: Path
    arm: str
    method: str
    seed: int | None = None
    step: int | None = None
    network_calls: int | None = None
    network_calls_before: int | None = None
    seconds_per_step: float | None = None
    images_per_second: float | None = None
    results: tuple[Result, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether others are compared with it: nothing but the diffusion loss has trained it, as far as is known."""
        return self.method in ("Diffusion", "pipeline")

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sparring compare --json`."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return values | {"folder": str(self.folder), "results": [result.to_json() for result in self.results]}


def is_run(path: str | Path) -> bool:
    return (Path(path) / CONFIG).is_file()


def keep_result(folder: Path, result: Result) -> None:
    """Adds a result to the folder's results.json, with the run's step, in place of one with the same `KEY`."""
    present = step_of(folder)
    result = replace(result, step=present if result.step is None else result.step)
    kept = [old for old in read_results(folder) if key_of(old, present) != key_of(result, present)]
    write_results(folder, [*kept, result])


def write_results(folder: Path, results: Iterable[Result]) -> None:
    """Puts these results in place of all that the folder has."""
    path = folder / RESULTS
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps([one.to_json() for one in results], indent=1))
    draft.replace(path)


def key_of(result: Result, present: int | None) -> tuple[object, ...]:
    """The values of `KEY`; a result without a step counts as of the present one."""
    step = present if result.step is None else result.step
    return tuple(step if key == "step" else getattr(result, key) for key in KEY)


def read_results(folder: Path, notes: list[str] | None = None) -> list[Result]:
    """All that was measured of a run or a pipeline, at whatever step it was.

    Args:
        folder: where results.json is; without it there are no results.
        notes: takes in plain words what could not be read; None: that is an error.

    Raises:
        ValueError: results.json is not a list of results, and there are no `notes`.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    results, broken = [], ""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
    except (OSError, ValueError) as error:
        entries, broken = [], "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
    left_out = 0
    for entry in entries:
        try:
            result = Result.from_json(entry)
            if result.setting is None:
                raise ValueError("`scheduler` or `nfe` is missing")
            results.append(result)
        except ValueError as error:
            left_out += 1
            broken = str(error)
    if broken and notes is None:
        raise ValueError(
            f"{path} is not a list of results, each with `scheduler`, `nfe` and `frechet` ({broken}): repair it, or "
            "remove it and evaluate again"
        )
    if notes is not None and broken:
        what = (
            f"{left_out} of {len(entries)} results left out" if left_out else "it is not readable as a list of results"
        )
        notes.append(f"{RESULTS}: {what} ({broken}).")
    return results


def measures_of(run: Path) -> dict[str, float] | None:
    """What the method of a run measured of itself at the newest checkpoint, from its log; None if nothing."""
    file, step = RunFolder(run).metrics, step_of(run)
    if not file.is_file():
        return None
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        if "measures/" in line and is_until(line, -1 if step is None else step):
            found = json.loads(line)
            named = {key.removeprefix("measures/"): x for key, x in found.items() if key.startswith("measures/")}
            return named if found["step"] == step else None
    return None


def step_of(run: Path) -> int | None:
    """Step of the newest checkpoint, None when there is none."""
    return next(reversed(steps_in(RunFolder(run).checkpoints)), None)


def summarise(folder: Path, notes: list[str] | None = None) -> RunSummary:
    """A run, or a folder with the results of a pipeline, with its costs and its results at its present step.

    Args:
        folder: the run or the folder.
        notes: takes in plain words what could not be read or is left out; None: what cannot be read is an error.

    Raises:
        ValueError: neither a run nor results, or (without `notes`) a configuration, newest checkpoint or results that
            are damaged.
    """
    results = read_results(folder, notes)
    name = folder.absolute().name
    arm = re.sub(r"[-_]s(eed)?\d+$", "", name)
    if not is_run(folder) and notes is None:
        if not (folder / RESULTS).is_file():
            raise ValueError(
                f"{folder} is not a run of sparring (it has no {CONFIG}), and holds no {RESULTS}: measure a pipeline "
                "with `sparring evaluate PIPELINE --reference RUN` first"
            )
        return RunSummary(
            name=name,
            folder=folder,
            arm=arm,
            method="pipeline",
            images_per_second=fastest(results),
            results=tuple(results),
        )
    config = RunFolder(folder).read_config(notes)
    costs = costs_of(folder, notes)
    step = step_of(folder)
    present = tuple(result for result in results if step is None or result.step in (None, step))
    if notes is not None and len(present) < len(results):
        lost = len(results) - len(present)
        notes.append(f"{lost} result{'s' * (lost > 1)} of another training step left out.")
    done = round(costs.get("step", 0))
    return RunSummary(
        name=name,
        folder=folder,
        arm=arm,
        method=_section(config, "method").get("class_path", "?").rsplit(".", 1)[-1],
        seed=_section(config, "trainer").get("seed"),
        step=done,
        network_calls=round(costs.get("network_calls", 0)),
        network_calls_before=calls_before(config),
        seconds_per_step=costs["seconds"] / done if done else None,
        images_per_second=fastest(present),
        results=present,
    )


def fastest(results: Iterable[Result]) -> float | None:
    """The most images per second of any result."""
    return max((result.images_per_second for result in results if result.images_per_second), default=None)


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def calls_before(config: dict[str, Any]) -> int | None:
    """Network calls of the runs that a run started from, one from the other; None when their folders are not there."""
    start = _section(config, "denoiser").get("path") or config.get("init")
    if start is None:
        return 0
    run = next((path for path in (Path(start), Path(start).parent) if is_run(path)), None)  # or its pipeline/
    if run is None:
        return None
    calls, before = costs_of(run, []).get("network_calls"), calls_before(RunFolder(run).read_config([]))
    return None if calls is None or before is None else round(calls) + before


def costs_of(run: Path, notes: list[str] | None = None) -> dict[str, float]:
    """Step, network calls and seconds of a run's newest checkpoint; {} without one.

    Raises:
        ValueError: its state file is damaged, and there are no `notes`.
    """
    step = step_of(run)
    if step is None:
        return {}
    checkpoint = RunFolder(run).checkpoints / f"{step:06d}"
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        costs = {key: float(state[key]) for key in ("step", "network_calls", "seconds")}
        if not all(map(math.isfinite, costs.values())):
            raise ValueError
        return costs
    except (OSError, ValueError, KeyError, TypeError):
        reason = (
            f"checkpoint {checkpoint} is damaged ({STATE} needs `step`, `network_calls` and `seconds`, all of them "
            "numbers)"
        )
    if notes is None:
        raise ValueError(f"{reason}: remove the folder, and the checkpoint before it counts")
    notes.append(f"{reason}.")
    return {}
