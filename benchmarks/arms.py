"""An experiment: arms trained from one baseline over seeds, sampled once, measured in several feature spaces.

`digits_results.py`, `sadm_results.py` and `adt_results.py` list the arms; here is what they share. What is finished is
kept, so that every command can be stopped and started again, and can run beside itself for other seeds.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from sets import RESNET20, RESNET56, SETS, Plan

from sparring.backbones import Backbone, CifarResNet, Pixels, SmallConvNet, Wrapped
from sparring.cli.main import main
from sparring.cli.terminal import quiet
from sparring.evaluation import Comparison, verdicts
from sparring.evaluation.features import cache_folder
from sparring.metrics import Reference, learned_features
from sparring.runs import RunSummary, summarise
from sparring.runs.checkpoint import steps_in
from sparring.runs.results import keep_result, read_results
from sparring.samplers import Sampler


@dataclass(frozen=True)
class Arm:
    """One arm: a method and the flags by which it differs.

    Args:
        method: that tunes the baseline, with its recipe on digits; None: that of the baseline, from scratch.
        flags: of `sparring fit`; IMAGES stands for the folder of the data sets, BASELINE for the run to start from.
        steps: updates, in units of those of the data set; from scratch those of the baseline.
        plan: schedulers and network calls; None: those of the table. Plain arms and the baseline have all of them.
    """

    method: str | None
    flags: list[str] = field(default_factory=list)
    steps: float = 1.0
    plan: Plan | None = None


class Experiment:
    """Trains and measures the arms of one seed.

    Args:
        name: of the data set.
        images: folder with the parquet files of the data sets that are not embedded.
        out: folder of the runs.
        split: "validation" for choosing, "holdout" for the final numbers.
    """

    def __init__(self, name: str, images: Path, out: Path, split: str):
        self.name, self.set, self.images, self.split = name, SETS[name], images, split
        self.out = out / name
        self.references: list[Reference] = []

    def run(self, arms: dict[str, Arm], seed: int, plan: Plan) -> None:
        """Makes what is missing of one seed."""
        quiet()
        base = self.out / f"seed{seed}" / "baseline"
        run = [f"--trainer.seed={seed}", "--trainer.tracker=null"]
        self.train(base, [*self.set.baseline, *(self.set.first or self.set.data)(self.images), *run])
        flags = self.set.data(self.images) + run
        self.measure(base, plan)
        for name, arm in arms.items():
            steps = f"--trainer.steps={round(self.set.steps * arm.steps)}"
            tuned = [arm.method or "", "--on", "digits", *self.set.shared, steps, "--init", str(base)]
            begun = tuned if arm.method else self.set.baseline
            own = [flag.replace("IMAGES", str(self.images)).replace("BASELINE", str(base)) for flag in arm.flags]
            self.train(base.with_name(name), [*begun, *flags, *own])
            self.measure(base.with_name(name), arm.plan or [s for s in plan if s[0] != "lcm" or "plain" in name])

    def train(self, run: Path, arguments: list[str]) -> None:
        begun = ["--resume"] if steps_in(run / "checkpoints") else []
        if not (run / "report.html").is_file() and main(["fit", *arguments, "--out", str(run), *begun]) != 0:
            sys.exit(f"{run} failed")

    def measure(self, run: Path, plan: Plan) -> None:
        """Samples every setting once, keeps the images, and measures them in every feature space."""
        for scheduler, calls in plan:
            file = run / "images" / f"{scheduler}-{calls}.npy"
            if not file.is_file():
                samples = Sampler(run)(self.set.n, calls, scheduler=scheduler, seed=0)
                file.parent.mkdir(exist_ok=True)
                np.save(file, ((samples.images + 1) * 127.5).round().byte().numpy())
            missing = [space for space in self.spaces() if not self.has(run, space, scheduler, calls)]
            if missing:
                images = torch.from_numpy(np.load(file)[: self.set.n]).float() / 127.5 - 1
            for space in missing:
                result = space.evaluate(images, pairs=0)
                keep_result(run, replace(result, nfe=calls, scheduler=scheduler, seed=0, split=self.split))

    def has(self, run: Path, space: Reference, scheduler: str, calls: int) -> bool:
        key = (space.name, scheduler, calls)
        return any((old.features, old.scheduler, old.nfe) == key for old in read_results(run))

    def spaces(self) -> list[Reference]:
        """An independent classifier, the judge's own encoder, features without labels, and pixels, with real images."""
        if not self.references:
            train, real = self.set.real(self.images, self.split)
            images, seen = real.images(), train.images()
            features: list[Backbone] = [learned_features(seen, cache=cache_folder()), Pixels()]
            labels, held = train.labels(), real.labels()
            if self.set.resnets:
                names = {"classifier, ResNet-56": RESNET56, "the judge's encoder, ResNet-20": RESNET20}
                nets = [CifarResNet(path=str(self.images / file)) for file in names.values()]
                for network, name in zip(nets, names, strict=True):
                    network.name = name
                features = [*nets, *features]
            elif labels is not None and held is not None:
                fitted = learned_features(seen, labels, holdout=(images, held), cache=cache_folder())
                judge = SmallConvNet(in_channels=self.set.channels, num_classes=self.set.num_classes)
                judge.prepare(seen, labels)
                features = [fitted, Wrapped(net=judge, name="the judge's encoder"), *features]
            for network in features:
                network.name += f", {self.split}"
                self.references.append(Reference(images, network, train=seen, cache=cache_folder()))
        return self.references


def rows_of(out: Path, table: "Table", arms: Sequence[str], seeds: Sequence[int], features: str) -> list[RunSummary]:
    """Finished runs as `sparring compare` reads them, in one feature space, at the settings of the table."""
    plan = table.plan or SETS[table.set].plan
    found = []
    for seed in seeds:
        for arm in arms:
            run = out / table.set / f"seed{seed}" / arm
            if (run / "results.json").is_file():
                one = summarise(run)
                results = tuple(
                    result
                    for result in one.results
                    if (result.features or "").startswith(features)
                    and (result.features or "").endswith(table.split)
                    and result.setting in plan
                )
                found.append(replace(one, results=results, seed=seed))
    return found


def markdown(comparison: Comparison) -> str:
    """Frechet distance, mean and standard deviation over seeds, for every arm and setting; the best column in bold.

    Seconds and network calls of the training are means over seeds, too.
    """
    every = comparison.settings()
    found = {(arm.number, s): one for arm in comparison.arms for s in every if (one := arm.distance(s))}
    best = {s: min((one.mean for (_, at), one in found.items() if at == s), default=0.0) for s in every}
    lines = ["| arm | s | calls | " + " | ".join(map(str, every)) + " |"]
    lines.append("|---|--:|--:|" + "--:|" * len(every))
    for arm in comparison.arms:
        calls = mean(run.network_calls or 0 for run in arm.runs)
        cells = []
        for setting in every:
            one = found.get((arm.number, setting))
            text = "" if one is None else digits_of(list(one.values))
            cells.append(f"**{text}**" if one and one.mean == best[setting] else text)
        lines.append(f"| {arm.name} | {arm.spent('seconds'):.0f} | {calls:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def precision_recall(comparison: Comparison) -> str:
    """Precision and recall of every arm and setting, mean over seeds."""
    every = comparison.settings()
    lines = ["| arm | " + " | ".join(map(str, every)) + " |", "|---|" + "--:|" * len(every)]
    for arm in comparison.arms:
        pairs = [[arm.estimate("precision", setting), arm.estimate("recall", setting)] for setting in every]
        cells = ["/".join(f"{one.mean:.2f}" for one in pair if one) for pair in pairs]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def digits_of(values: list[float]) -> str:
    """Mean and standard deviation, with three digits that mean something; empty for no value."""
    if not values:
        return ""
    average = mean(values)
    places = 2 if average >= 1 else 3
    return f"{average:.{places}f}" + (f"±{stdev(values):.{places}f}" if len(values) > 1 else "")


SPACES = ("classifier", "the judge's encoder", "self-supervised", "pixels")


def report(out: Path, table: "Table", arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Prints the distances and verdicts in the independent classifier's features, and the ratios in every space."""
    spaces = {space: Comparison.of(rows_of(out, table, arms, seeds, space)) for space in SPACES}
    spaces = {space: comparison for space, comparison in spaces.items() if comparison.example()}
    for first, comparison in enumerate(spaces.values()):
        example = comparison.example()
        assert example is not None
        floor = f"floor {example.floor.frechet:.3f}" if example.floor and example.floor.frechet is not None else ""
        print(f"\n{table.set}, {example.features}; n = {example.n} against {example.n_reference}, {floor}\n")
        print(markdown(comparison))
        if first == 0:
            for verdict in verdicts(comparison):
                print(f"- **{verdict.name}**, {verdict.headline}. {verdict.sentence}")
            print("\nprecision/recall, mean over seeds\n")
            print(precision_recall(comparison))
    for control in (arm for arm in arms if arm == "baseline" or arm.startswith("plain")):
        print(f"\n{table.set}, distance over that of {control}, seed by seed\n")
        print(ratios(spaces, control))


def ratios(spaces: dict[str, Comparison], control: str) -> str:
    """Every arm's distance over the control's, mean and standard deviation over seeds, in every feature space."""
    every = sorted({setting for comparison in spaces.values() for setting in comparison.settings()})
    lines = ["| arm | features | " + " | ".join(map(str, every)) + " |"]
    lines.append("|---|---|" + "--:|" * len(every))
    names = dict.fromkeys(arm.name for comparison in spaces.values() for arm in comparison.arms)
    for name in (name for name in names if name not in (control, "baseline")):
        for space, comparison in spaces.items():
            by_name = {arm.name: arm for arm in comparison.arms}
            cells = []
            for setting in every:
                mine, its = (by_name[arm].results(setting) if arm in by_name else {} for arm in (name, control))
                seeds = sorted(set(mine) & set(its), key=str)
                cells.append(digits_of([mine[seed].frechet / its[seed].frechet for seed in seeds]))
            lines.append(f"| {name} | {space} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """What one command makes: arms on a data set, at the settings of the data set or at fewer.

    Args:
        set: name of the data set.
        arms: by name; they and the baseline make the rows.
        plan: schedulers and network calls; None: those of the data set.
        split: "validation" for choosing, "holdout" for the final numbers.
    """

    set: str
    arms: dict[str, Arm]
    plan: Plan | None = None
    split: str = "holdout"


def command(doc: str | None, tables: dict[str, Table], argv: list[str] | None = None) -> None:
    """The command line of an experiment: makes a table's runs, seed after seed, and prints it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(tables), help="which table")
    parser.add_argument("--images", type=Path, default=Path("data"), help="folder of the parquet files (data)")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", help="these arms alone")
    parser.add_argument("--print", action="store_true", help="print what is there and stop")
    options = parser.parse_args(argv)
    table = tables[options.table]
    chosen = {name: arm for name, arm in table.arms.items() if options.arms is None or name in options.arms}
    experiment = Experiment(table.set, options.images, options.out, table.split)
    for seed in options.seeds if not options.print else []:
        experiment.run(chosen, seed, table.plan or SETS[table.set].plan)
    report(options.out, table, ["baseline", *chosen], options.seeds)
