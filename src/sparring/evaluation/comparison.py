"""Runs side by side: arms over their seeds, with those results only that were measured alike."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sparring.runs.results import Result, RunSummary, Setting

PROTOCOL_KEYS = ("features", "n", "n_reference", "seed", "split", "reference", "reference_looks")
"""What two results must share to be compared; features in `LEARNED` also the images trained on."""

LEARNED = ("classifier", "self-supervised")
"""Features that are trained on the images that the run was trained on."""

SAME = 1e-6  # relative: two schedulers that draw the same images differ by rounding only

Metric = Literal[
    "frechet",
    "kernel",
    "precision",
    "recall",
    "density",
    "coverage",
    "rare_share",
    "class_coverage",
    "rarest_class",
    "class_accuracy",
    "calls",
    "sliced_wasserstein",
    "modes_covered",
    "good_share",
    "psnr",
    "memorisation",
    "train_share",
    "images_per_second",
]
Cost = Literal["network_calls", "network_calls_before", "seconds_per_step", "images_per_second", "step"]
Seed = int | None
"""Seed of a training; None for a model that is only there once, such as a pipeline."""


@dataclass(frozen=True)
class Estimate:
    """One number over seeds.

    Attributes:
        values: one for each seed.
        interval: of a single value, if one is known.
    """

    values: tuple[float, ...]
    interval: tuple[float, float] | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def low(self) -> float:
        """The mean less the deviation; of one seed the lower end of the interval, or the value."""
        return self.mean - (self.deviation or 0.0) if self.interval is None else self.interval[0]

    @property
    def high(self) -> float:
        return self.mean + (self.deviation or 0.0) if self.interval is None else self.interval[1]


@dataclass(frozen=True)
class Arm:
    """All runs of one name: seeds of the same thing.

    Attributes:
        number: its place among the arms.
    """

    number: int
    name: str
    runs: tuple[RunSummary, ...]

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def plain(self) -> bool:
        """Whether other arms are compared with it."""
        return all(run.plain for run in self.runs)

    @property
    def seeds(self) -> list[Seed]:
        return [run.seed for run in self.runs]

    def settings(self) -> set[Setting]:
        """Every setting at which it was measured."""
        return {setting for run in self.runs for result in run.results if (setting := result.setting)}

    def results(self, setting: Setting) -> dict[Seed, Result]:
        """The results at a setting by seed (of two results of a run the later one)."""
        return {run.seed: result for run in self.runs for result in run.results if result.setting == setting}

    def distance(self, setting: Setting) -> Estimate | None:
        """The Frechet distance over the seeds; see `estimate`."""
        return self.estimate("frechet", setting)

    def estimate(self, metric: Metric, setting: Setting) -> Estimate | None:
        """A number over the seeds; None if it was not measured, or if a value is missing or not finite."""
        results = list(self.results(setting).values())
        if len(results) < len(self.runs):
            return None
        found = _finite([getattr(result, metric) for result in results])
        if found is None:
            return None
        interval = None
        if len(found) == 1 and metric in ("frechet", "kernel"):
            interval = results[0].frechet_interval if metric == "frechet" else results[0].kernel_interval
        return Estimate(found, interval)

    def calls(self, setting: Setting) -> float:
        """Network calls of an image: what was counted, or the NFE of the setting if nothing was."""
        counted = self.estimate("calls", setting)
        return float(setting.nfe) if counted is None else counted.mean

    def cost(self, key: Cost) -> Estimate | None:
        """A number of the runs themselves over the seeds; None if it is not known of all."""
        found = _finite([getattr(run, key) for run in self.runs])
        return None if found is None else Estimate(found)

    def spent(self, budget: Literal["calls", "seconds"]) -> float:
        """What the training cost, mean over seeds: network calls, with those of the start; or seconds of its own."""
        if budget == "calls":
            return statistics.fmean((run.network_calls or 0) + (run.network_calls_before or 0) for run in self.runs)
        return statistics.fmean((run.seconds_per_step or 0.0) * (run.step or 0) for run in self.runs)


def _finite(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """The values, or None if there are none or one is missing or not finite."""
    known = tuple(float(value) for value in values if value is not None and math.isfinite(value))
    return known if known and len(known) == len(values) else None


@dataclass(frozen=True)
class Comparison:
    """Arms whose results were measured alike.

    Attributes:
        arms: in the order of their first runs.
        left_out: number of results that were measured in another way, by the folder of the run.
        same: scheduler and NFE that drew the same images as another one, under which they are kept.
    """

    arms: tuple[Arm, ...]
    left_out: Mapping[Path, int]
    same: Mapping[Setting, Setting]

    @classmethod
    def of(cls, runs: Sequence[RunSummary]) -> "Comparison":
        """The comparison of some runs.

        Raises:
            ValueError: two of them are the same seed of the same arm: one would stand for the other.
        """
        seen: dict[tuple[str, Seed], RunSummary] = {}
        for run in runs:
            if other := seen.get((run.arm, run.seed)):
                raise ValueError(
                    f"{other.folder} and {run.folder} are both seed {run.seed} of the arm `{run.arm}`: give one of "
                    "them, or rename a folder (NAME-s0, NAME-s1 … are seeds of NAME)"
                )
            seen[run.arm, run.seed] = run
        kept = comparable_only(runs)
        left_out = {
            run.folder: lost
            for run, less in zip(runs, kept, strict=True)
            if (lost := len(run.results) - len(less.results))
        }
        same = same_images(kept)
        kept = [_renamed(run, same) for run in kept]
        names = list(dict.fromkeys(run.arm for run in runs))
        arms = (Arm(i, name, tuple(run for run in kept if run.arm == name)) for i, name in enumerate(names))
        return cls(tuple(arms), left_out, same)

    def settings(self) -> list[Setting]:
        """Every scheduler and NFE at which an arm was measured, in order."""
        return sorted({setting for arm in self.arms for setting in arm.settings()})

    def example(self) -> Result | None:
        """One result, to say how all were measured."""
        return next((result for arm in self.arms for run in arm.runs for result in run.results), None)


def comparable_only(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs with those results only that were measured in one way, that of most results."""
    protocol = most_common_protocol([result for run in runs for result in run.results])
    if protocol is None:
        return list(runs)
    kept = [tuple(result for result in run.results if measured_alike(result, protocol)) for run in runs]
    return [replace(run, results=results) for run, results in zip(runs, kept, strict=True)]


def measured_alike(one: Result, other: Result) -> bool:
    """Whether two results can be compared: same features, images, number and seed of the samples.

    What one of them does not say (an older results.json) is no difference.
    """
    learned = (one.features or "").startswith(LEARNED)
    keys = (*PROTOCOL_KEYS, "train") if learned else PROTOCOL_KEYS
    pairs = [(getattr(one, key), getattr(other, key)) for key in keys]
    return all(a == b for a, b in pairs if a is not None and b is not None)


def most_common_protocol(results: Sequence[Result]) -> Result | None:
    """Of some results one that was measured as most of them were, of equals the latest; None if there is none."""
    if not results:
        return None
    keys = (*PROTOCOL_KEYS, "train")
    protocols = {tuple(getattr(result, key) for key in keys): result for result in results}
    sharing = {key: sum(measured_alike(one, other) for other in results) for key, one in protocols.items()}
    most = protocols[max(reversed(protocols), key=lambda key: sharing[key])]
    same = [key for key, one in reversed(protocols.items()) if measured_alike(one, most)]
    return protocols[max(same, key=lambda key: (sum(x is not None for x in key), sharing[key]))]  # that says most


def same_images(runs: Sequence[RunSummary]) -> dict[Setting, Setting]:
    """Settings that draw the same images as an earlier one in every run that has both (dpm 2 = ddim 2), to that one."""
    by_run = [{setting: result for result in run.results if (setting := result.setting)} for run in runs]
    settings = sorted({setting for results in by_run for setting in results})
    same: dict[Setting, Setting] = {}
    for i, later in enumerate(settings):
        for earlier in settings[:i]:
            pairs = [(one[earlier], one[later]) for one in by_run if earlier in one and later in one]
            if earlier.nfe == later.nfe and earlier not in same and pairs and all(_equal(*pair) for pair in pairs):
                same[later] = earlier
                break
    return same


def _equal(one: Result, other: Result) -> bool:
    """Whether two results are those of the same images, up to rounding."""
    if one.kernel is None or other.kernel is None:
        return False
    pairs = ((one.frechet, other.frechet), (one.kernel, other.kernel))
    return all(math.isclose(a, b, rel_tol=SAME) for a, b in pairs)


def _renamed(run: RunSummary, same: Mapping[Setting, Setting]) -> RunSummary:
    """The run with each result under the first of the settings that draw its images, once."""
    own = {result.setting for result in run.results}
    results = []
    for result in run.results:
        first = same.get(result.setting) if result.setting else None
        if first is None:
            results.append(result)
        elif first not in own:
            results.append(replace(result, scheduler=first.scheduler))
    return replace(run, results=tuple(results))
