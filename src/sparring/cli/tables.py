"""Results on the terminal: one table of a comparison, a few lines of one evaluation."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparring.evaluation.comparison import Arm, Comparison, Cost
from sparring.evaluation.verdict import Verdict
from sparring.runs.results import Floor, Result, Setting

WIDEST = 160
COLOURS = {"gain": "green", "worse": "red", "no gain": "yellow", "not compared": "dim"}


def console() -> Console:
    """The terminal as it is; wide enough for a table when the output goes elsewhere."""
    return Console() if sys.stdout.isatty() else Console(width=WIDEST)


def print_result(name: str, result: Result) -> None:
    """The numbers of one evaluation and what they depend on."""
    floor = result.floor or Floor()
    table = Table(title=name, title_justify="left", caption_justify="left")
    for heading in ("metric", "value", "floor (real)", "better"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    values = {
        "frechet": (result.frechet, floor.frechet, "lower"),
        "kernel": (result.kernel, floor.kernel, "lower"),
        "precision": (result.precision, floor.precision, "higher"),
        "recall": (result.recall, floor.recall, "higher"),
        "density": (result.density, floor.density, "higher"),
        "coverage": (result.coverage, floor.coverage, "higher"),
        "rare_share": (result.rare_share, floor.rare_share, ""),
        "rarest_class": (result.rarest_class, None, ""),
        "class_accuracy": (result.class_accuracy, None, "higher"),
        "sliced_wasserstein": (result.sliced_wasserstein, floor.sliced_wasserstein, "lower"),
        "modes_covered": (result.modes_covered, floor.modes_covered, "higher"),
        "good_share": (result.good_share, floor.good_share, "higher"),
        "psnr": (result.psnr, None, "higher"),
    }
    for key, (value, low, better) in values.items():
        if value is not None:
            table.add_row(key, f"{value:.4g}", "" if low is None else f"{low:.4g}", better)
    for key, value in (result.measures or {}).items():
        table.add_row(key, f"{value:.4g}", "", "")
    more = "" if round(result.calls or 0, 3) in (0, result.nfe) else f" ({result.calls:.3g} calls with what was added)"
    how = f"{result.scheduler}, NFE {result.nfe}{more}, " if result.nfe else ""
    table.caption = (
        f"{how}n = {result.n} against {result.n_reference} real images, features: {result.features} "
        f"(a distance in these features is not an FID); floor: {floor.n or '?'} real images"
    )
    console().print(table)


def print_results(found: Sequence[tuple[Path, Result]]) -> None:
    """Several evaluations, a row each, and what they depend on."""
    table = Table(caption_justify="left")
    costs = any(round(result.calls or 0, 3) not in (0, result.nfe) for _, result in found)
    numbers: list[dict[str, float | None]] = [
        {
            "calls": (result.calls or result.nfe) if costs else None,
            "frechet": result.frechet,
            "floor": (result.floor or Floor()).frechet,
            "kernel": result.kernel,
            "precision": result.precision,
            "recall": result.recall,
            "modes_covered": result.modes_covered,
            "good_share": result.good_share,
            "psnr": result.psnr,
        }
        for _, result in found
    ]
    always = ("frechet", "floor", "kernel", "precision", "recall")
    shown = [name for name in numbers[0] if name in always or any(row[name] is not None for row in numbers)]
    for heading in ("source", "scheduler, NFE", "seed", *shown):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for (source, result), row in zip(found, numbers, strict=True):
        cells = ["" if (value := row[name]) is None else f"{value:.4g}" for name in shown]
        seed = "" if result.seed is None else str(result.seed)
        table.add_row(escape(str(source)), str(result.setting or "images"), seed, *cells)
    how = sorted({(r.n or 0, r.n_reference or 0, r.features or "") for _, r in found})
    table.caption = "\n".join(f"n = {n} against {of} real images, features: {features}" for n, of, features in how)
    console().print(table)


def print_comparison(comparison: Comparison, verdicts: Sequence[Verdict]) -> None:
    """Frechet distance, precision and recall of every arm, scheduler and NFE; cost; verdicts.

    One table if the terminal is wide enough, else one for the distance and one for the shares. Of points in the plane
    another one says how many modes are covered, and how many points are good.
    """
    out, arms = console(), comparison.arms
    if out.width >= 30 + 20 * len(arms):
        kinds = [("Frechet distance (precision/recall)", distance_and_shares)]
    else:
        kinds = [("Frechet distance", distance), ("Precision/recall", shares)]
    if any(points(arm, setting) for arm in arms for setting in comparison.settings()):
        kinds.append(("Modes covered (share of good points)", points))
    for title, write in kinds:
        table = Table(title=title, title_justify="left", caption_justify="left")
        table.add_column("scheduler, NFE")
        for arm in arms:
            table.add_column(arm.name, justify="right")
        for setting in comparison.settings():
            table.add_row(str(setting), *[write(arm, setting) for arm in arms])
        if write not in (shares, points):
            table.add_section()
            table.add_row("ms per training step", *[mean_of(arm, "seconds_per_step", 1000) for arm in arms])
            table.add_row("training calls", *[mean_of(arm, "network_calls") for arm in arms])
            table.add_row("of its start before", *[mean_of(arm, "network_calls_before") for arm in arms])
            table.add_row("images/s, fastest", *[mean_of(arm, "images_per_second") for arm in arms])
        out.print(table)
    if some := comparison.example():
        floor = some.floor or Floor()
        near, precise, covered = (
            math.nan if value is None else value for value in (floor.frechet, floor.precision, floor.recall)
        )
        out.print(
            f"Lower distance is better; it is not an FID. Features: {some.features}; n = {some.n} against "
            f"{some.n_reference} held-out images; floor (real against real): {near:.2f} ({precise:.2f}/{covered:.2f}).",
            highlight=False,
        )
    for later, earlier in comparison.same.items():
        out.print(f"{later} draws the same images as {earlier} and is left out.", highlight=False)
    if bare := [str(run.folder) for arm in arms for run in arm.runs if not run.results]:
        out.print(f"Not evaluated yet, so without numbers: {', '.join(bare)} (sparring evaluate RUN).", highlight=False)
    if left_out := sum(comparison.left_out.values()):
        out.print(f"{left_out} results were measured in another way and are left out.", highlight=False)
    for verdict in verdicts:
        word = f"[{COLOURS[verdict.verdict]}]{verdict.headline}[/]"
        out.print(f"[bold]{escape(verdict.name)}[/] {word}  {escape(verdict.sentence)}", highlight=False)


def distance_and_shares(arm: Arm, setting: Setting) -> str:
    far = distance(arm, setting)
    return f"{far} ({shares(arm, setting)})" if far else ""


def distance(arm: Arm, setting: Setting) -> str:
    """Mean and standard deviation over seeds of one arm at one setting."""
    found = arm.distance(setting)
    if found is None:
        return "not finite" if arm.results(setting) else ""
    places = 2 if found.mean >= 0.1 else 4  # of points in the plane it is small
    return f"{found.mean:.{places}f}" + ("" if found.deviation is None else f"±{found.deviation:.{places}f}")


def shares(arm: Arm, setting: Setting) -> str:
    """Precision and recall, means over seeds."""
    found = [arm.estimate("precision", setting), arm.estimate("recall", setting)]
    return "/".join("–" if one is None else f"{one.mean:.2f}" for one in found) if arm.results(setting) else ""


def points(arm: Arm, setting: Setting) -> str:
    """Modes covered and the share of good points, means over seeds; "" of other images."""
    modes, good = arm.estimate("modes_covered", setting), arm.estimate("good_share", setting)
    return f"{modes.mean:.1f} ({good.mean:.1%})" if modes and good else ""


def mean_of(arm: Arm, key: Cost, scale: float = 1) -> str:
    found = arm.cost(key)
    return "" if found is None else f"{scale * found.mean:.0f}"
