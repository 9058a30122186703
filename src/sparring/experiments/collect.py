"""From the runs of a study to its results file, and every single number as CSV."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.integrate import trapezoid

from sparring.evaluation import Arm, Comparison, Verdict, verdicts
from sparring.evaluation.comparison import Metric
from sparring.experiments.results import SettingResults, StudyResults, Table
from sparring.experiments.study import BASELINE
from sparring.experiments.study_runs import StudyRuns
from sparring.runs import RunSummary, summarise
from sparring.runs.folder import provenance
from sparring.runs.results import Result, Setting

METRICS = (
    "calls",
    *("frechet", "kernel", "precision", "recall", "density", "coverage", "rare_share", "memorisation"),
    *("class_accuracy", "rarest_class"),
    *("sliced_wasserstein", "modes_covered", "good_share"),  # of points
    "psnr",  # of images made from a source
)


def collect(study_runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str], command: str) -> StudyResults:
    """The results of the runs that are there.

    Raises:
        ValueError: none is; one was trained with other settings.
    """
    study = study_runs.study
    settings = {}
    for setting in study.settings:
        spaces = {name: of_space(study_runs, setting, seeds, arms, name) for name in study.features_on(setting)}
        spaces = {name: runs for name, runs in spaces.items() if any(run.results for run in runs)}
        if spaces:
            settings[setting] = results_of(study_runs, spaces)
    if not settings:
        raise ValueError(f"nothing of the study {study.name} is in {study_runs.out} yet: run it without --print")
    return StudyResults(
        name=study.name, command=command, revision=provenance()["git"], seeds=list(seeds), settings=settings
    )


def missing(study_runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str]) -> list[str]:
    """What a study lacks, a line each: arms of some seeds only, whose numbers are means over fewer than the others'.

    A run counts if it is trained to its end and measured everywhere.
    """
    found = []
    for setting in study_runs.study.settings:
        for arm in arms:
            trained = [seed for seed in seeds if study_runs.is_trained(setting, seed, arm)]
            there = [seed for seed in trained if study_runs.is_measured(setting, seed, arm)]
            if len(there) < len(seeds):
                what = f"seeds {', '.join(map(str, there))} only" if there else "not there yet"
                found.append(f"{setting}, {arm}: {what}")
    return found


def further_seeds(study_runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str]) -> list[int]:
    """Seeds beside these of which every arm is trained and measured, as by another process in the same folder."""
    settings = list(study_runs.study.settings)
    there = {int(folder.name[4:]) for folder in (study_runs.out / settings[0]).glob("seed[0-9]*")}
    return [seed for seed in sorted(there - set(seeds)) if not missing(study_runs, [seed], arms)]


def of_space(
    study_runs: StudyRuns, setting: str, seeds: Sequence[int], arms: Sequence[str], features: str
) -> list[RunSummary]:
    """The runs that are there, each with its results in one feature space at the samplers of the study."""
    found = []
    for seed in seeds:
        for arm in arms:
            folder = study_runs.folder(setting, seed, arm)
            if study_runs.is_trained(setting, seed, arm) and not study_runs.makes_no_images(setting, arm):
                study_runs.check_same(setting, seed, arm)
                summary = summarise(folder)
                if study_runs.only_samples(setting, arm):
                    summary = with_costs(summary, study_runs, setting, seed, arm)
                kept = tuple(one for one in summary.results if study_runs.belongs(one, arm) and is_in(one, features))
                found.append(replace(summary, arm=arm, seed=seed, results=kept))
    return found


def with_costs(summary: RunSummary, study_runs: StudyRuns, setting: str, seed: int, arm: str) -> RunSummary:
    """An arm that only samples another, with what the training of that one has cost up to where it is sampled."""
    chosen, trained = study_runs.study.arms[arm], study_runs.study.settings[setting].of or setting
    of = summarise(study_runs.folder(trained, seed, chosen.of or arm))
    share = chosen.average.get("at", 1.0)
    step, calls = (None if number is None else round(share * number) for number in (of.step, of.network_calls))
    costs: dict[str, Any] = dict(step=step, network_calls=calls, network_calls_before=of.network_calls_before)
    return replace(summary, seconds_per_step=of.seconds_per_step, **costs)


def is_in(result: Result, features: str) -> bool:
    return (result.features or "").startswith(features)


def results_of(study_runs: StudyRuns, spaces: dict[str, list[RunSummary]]) -> SettingResults:
    """Tables and verdicts of one setting."""
    comparisons = {name: Comparison.of(runs) for name, runs in spaces.items()}
    first = next(iter(comparisons.values()))
    split = study_runs.study.split
    tables = [distances(comparison, split) for comparison in comparisons.values()]
    if curves := {name: arm.curve for name, arm in study_runs.study.arms.items() if arm.curve}:
        tables += [area for comparison in comparisons.values() for area in areas(comparison, curves, split)]
    tables += [shares(first, split), *further(first, split), *of_methods(first)]
    controls = {arm.name: study_runs.study.controls_of(arm.name) for arm in first.arms}
    for control in dict.fromkeys(name for names in controls.values() for name in names):
        judged = [name for name, names in controls.items() if control in names]
        if table := ratios(comparisons, control, judged):
            tables.append(table)
    is_control = {arm: any(arm in names for names in controls.values()) for arm in controls}
    words = [
        {"name": one.name, "verdict": one.headline, "sentence": one.sentence}
        for arm, names in controls.items()
        if not is_control[arm]
        for one in verdicts_on(next(iter(spaces.values())), arm, names)
    ]
    return SettingResults(tables=tables, verdicts=words)


def verdicts_on(runs: Sequence[RunSummary], arm: str, controls: Sequence[str]) -> list[Verdict]:
    """The verdicts on an arm against its own controls: those that were trained plainly, or else the baseline."""
    mine = [run for run in runs if run.arm == arm]
    against = [run for run in runs if run.arm in controls]
    chosen = [run for run in against if run.plain] or [run for run in against if run.arm == BASELINE]
    return verdicts(Comparison.of([*chosen, *mine]), of=arm)


def distances(comparison: Comparison, split: str) -> Table:
    """Distance, seconds and NFE of the training, mean and standard deviation over seeds."""
    every = comparison.settings()
    rows = []
    for arm in comparison.arms:
        nfe = fmean(run.network_calls or 0 for run in arm.runs)
        cells = [text_of(found.values if (found := arm.distance(setting)) else ()) for setting in every]
        rows.append([arm.name, f"{arm.spent('seconds'):.0f}", f"{nfe:.0f}", *cells])
    columns = ["arm", "s", "training NFE", *map(str, every)]
    return Table(kind="distance", columns=columns, rows=rows, **measured(comparison, split))


def areas(comparison: Comparison, curves: dict[str, list[float]], split: str) -> list[Table]:
    """Mean distance over a training, from the first point that all curves have to its end: the area under the curve.

    By the trapezoid rule, over the width; mean and standard deviation over seeds. No table without curves.

    Args:
        comparison: of the arms.
        curves: shares of the steps after which an arm was measured.
        split: of the real images.
    """
    every, by_name = comparison.settings(), {arm.name: arm for arm in comparison.arms}
    rows: list[list[str]] = []
    common = set.intersection(*map(set, curves.values()))
    first = min(common, default=1.0)
    for name, points in curves.items() if common else ():
        names = {share: f"{name} at {share:g}" for share in sorted(points) if share >= first} | {1.0: name}
        if all(one in by_name for one in names.values()):
            cells = []
            for setting in every:
                found = {share: by_name[one].results(setting) for share, one in names.items()}
                seeds = [seed for seed in found[1.0] if all(seed in results for results in found.values())]
                curve = [[found[share][seed].frechet for share in names] for seed in seeds]
                width = 1.0 - first
                cells.append(text_of([float(trapezoid(heights, list(names))) / width for heights in curve]))
            rows.append([name, *cells])
    columns = ["arm", *map(str, every)]
    return [Table(kind="area", columns=columns, rows=rows, **measured(comparison, split))] if rows else []


def shares(comparison: Comparison, split: str) -> Table:
    """Precision and recall, means over seeds."""
    every = comparison.settings()
    rows = []
    for arm in comparison.arms:
        pairs = [(arm.estimate("precision", setting), arm.estimate("recall", setting)) for setting in every]
        rows.append([arm.name, *(f"{p.mean:.2f}/{r.mean:.2f}" if p and r else "" for p, r in pairs)])
    return Table(kind="shares", columns=["arm", *map(str, every)], rows=rows, **measured(comparison, split))


def further(comparison: Comparison, split: str) -> list[Table]:
    """Class accuracy, shares of the rarest class, rare images and good points, passes, nearness, modes and PSNR.

    Mean and standard deviation over seeds.
    """
    wanted: list[tuple[str, Metric, int | None]] = [
        ("accuracy", "class_accuracy", None),
        ("rarest", "rarest_class", None),
        ("calls", "calls", 1),
        ("rare", "rare_share", None),
        ("nearness", "memorisation", None),
        ("modes", "modes_covered", 1),
        ("good", "good_share", None),
        ("psnr", "psnr", None),
    ]
    every, how = comparison.settings(), measured(comparison, split) | {"floor": None}
    tables = []
    for kind, metric, digits in wanted:
        if kind == "calls" and all(one.calls in (None, one.nfe) for run in runs_of(comparison) for one in run.results):
            continue  # nothing is added to any sampler
        rows = []
        for arm in comparison.arms:
            found = [arm.estimate(metric, setting) for setting in every]
            rows.append([arm.name, *(text_of(one.values, digits) if one else "" for one in found)])
        if any(cell for row in rows for cell in row[1:]):
            tables.append(Table(kind=kind, columns=["arm", *map(str, every)], rows=rows, **how))
    return tables


def of_methods(comparison: Comparison) -> list[Table]:
    """What methods and samplers measure, mean and standard deviation over seeds; no table if none does.

    A column for each sampler, if what is measured differs between them.
    """
    measured: dict[str, dict[Setting, dict[str, list[float]]]] = {}  # by name, sampler and arm
    for setting in comparison.settings():
        for arm in comparison.arms:
            for result in arm.results(setting).values():
                for name, value in (result.measures or {}).items():
                    of_arms = measured.setdefault(name, {}).setdefault(setting, {})
                    of_arms.setdefault(arm.name, []).append(value)
    columns: dict[str, dict[str, list[float]]] = {}
    for name, by_sampler in measured.items():
        merged = {arm: values for of_arms in by_sampler.values() for arm, values in of_arms.items()}
        if all(values == merged[arm] for of_arms in by_sampler.values() for arm, values in of_arms.items()):
            columns[name] = merged
        else:
            columns |= {f"{name}, {setting}": of_arms for setting, of_arms in by_sampler.items()}
    rows = [[arm.name, *(text_of(cells.get(arm.name, ())) for cells in columns.values())] for arm in comparison.arms]
    return [Table(kind="measures", columns=["arm", *columns], rows=rows)] if columns else []


def runs_of(comparison: Comparison) -> Iterator[RunSummary]:
    return (run for arm in comparison.arms for run in arm.runs)


def measured(comparison: Comparison, split: str) -> dict[str, Any]:
    """How a table's numbers were measured."""
    example = comparison.example()
    assert example is not None
    floor = None if example.floor is None or example.floor.frechet is None else round(example.floor.frechet, 4)
    return {
        "features": example.features,
        "split": split,
        "n": example.n,
        "n_reference": example.n_reference,
        "floor": floor,
    }


def ratios(comparisons: dict[str, Comparison], control: str, arms: Sequence[str]) -> Table | None:
    """Every arm's distance over the control's, mean and standard deviation over seeds, in every feature space."""
    every = sorted({setting for comparison in comparisons.values() for setting in comparison.settings()})
    rows = []
    for name in arms:
        for features, comparison in comparisons.items():
            by_name = {arm.name: arm for arm in comparison.arms}
            if name in by_name and control in by_name:
                cells = [text_of(ratio(by_name[name], by_name[control], setting)) for setting in every]
                rows.append([name, features, *cells])
    if not any(cell for row in rows for cell in row[2:]):
        return None
    return Table(kind="ratio", columns=["arm", "features", *map(str, every)], rows=rows, control=control)


def ratio(arm: Arm, control: Arm, setting: Setting) -> list[float]:
    """Distance over that of the control with the same seed, for the seeds that both have."""
    mine, its = arm.results(setting), control.results(setting)
    return [mine[seed].frechet / its[seed].frechet for seed in mine if seed in its and its[seed].frechet > 0]


def text_of(values: Sequence[float], digits: int | None = None) -> str:
    """Mean and standard deviation over seeds; empty for no value.

    Args:
        values: of the seeds.
        digits: after the point; None: three in all from 0.1 on.
    """
    if not values:
        return ""
    places = digits if digits is not None else 2 if fmean(values) >= 1 else 3
    return f"{fmean(values):.{places}f}" + (f"±{stdev(values):.{places}f}" if len(values) > 1 else "")


def write_csv(study_runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str], path: Path) -> None:
    """Writes every number of every run, a line for each setting, arm, seed, feature space, scheduler and NFE."""
    costs = ("training_steps", "training_nfe", "training_seconds")
    heading = ("setting", "arm", "seed", *costs, "features", "split", "scheduler", "nfe", "n", "n_reference", *METRICS)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(heading)
        for setting, run, result in every_result(study_runs, seeds, arms):
            seconds = None if run.seconds_per_step is None else round(run.seconds_per_step * (run.step or 0), 1)
            how = (result.features, result.split, result.scheduler, result.nfe, result.n, result.n_reference)
            values = [getattr(result, metric) for metric in METRICS]
            shown = ["" if value is None else f"{value:.5g}" for value in values]
            lines.writerow((setting, run.arm, run.seed, run.step, run.network_calls, seconds, *how, *shown))


def every_result(
    study_runs: StudyRuns, seeds: Sequence[int], arms: Sequence[str]
) -> Iterator[tuple[str, RunSummary, Result]]:
    for setting in study_runs.study.settings:
        for features in study_runs.study.features_on(setting):
            for run in of_space(study_runs, setting, seeds, arms, features):
                for result in run.results:
                    yield setting, run, result
