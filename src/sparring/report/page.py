"""Puts the page together: a run or a comparison of runs as one HTML file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from sparring.report.folder import Setting, read_run
from sparring.report.images import Embedded, embed, spread_out, within_budget
from sparring.report.panels import cost_panels, curve_panels, quality_panels
from sparring.report.table import Arm, floor, make_arms, make_table, measured_with, number, settings

VERDICTS = ("gain", "no gain", "worse")
COLOURS = 6  # --s0 .. --s5 in style.css; arms without a verdict take the greys --r0, --r1 while there are any
MOST_STEPS = 12  # training steps on the slider
GRID_BUDGET, FINAL_BUDGET = 1_200_000, 1_000_000  # bytes of data URIs


def write_run_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of one run folder (default: `report.html` in it) and return its path.

    Whatever the folder does not hold yet is named as missing on the page.

    Raises:
        ValueError: `run` is no folder.
    """
    folder = read_run(run)
    steps = [int(points[-1][0]) for points in folder.curves.values()]
    seconds = folder.curves.get("seconds_per_step")
    row = {
        "name": run.name,
        "method": folder.method,
        "seed": folder.trainer("seed"),
        "step": max(steps, default=None),
        "seconds_per_step": seconds[-1][1] if seconds else None,
        "results": folder.results,
    }
    arms = make_arms([row], [folder])
    return _write(
        out or run / "report.html",
        arms=arms,
        title=run.name,
        headline=_run_headline(arms[0]),
        verdicts=[],
        command=folder.command,
    )


def write_comparison(
    runs: Sequence[Path],
    out: Path,
    *,
    table: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, str]] = (),
    title: str = "Comparison",
    command: str = "",
) -> Path:
    """Write the page that compares runs and return its path.

    Args:
        runs: run folders.
        out: HTML file to write.
        table: one row for every run, as `sparring compare --json` prints them: {"name", "method", "seed", "step",
            "network_calls", "seconds_per_step", "images_per_second", "results": [...]}. Rows with the same "arm"
            (without that key: the same "name") are seeds of one arm; the page shows their mean and standard deviation.
        verdicts: {"name", "sentence", "verdict": "gain" | "no gain" | "worse"} in the order of reading, by arm. An
            arm may have several; an arm with none is drawn grey, as what the others are compared with.
        command: the command line that makes the comparison again.

    Raises:
        ValueError: a folder is missing, a verdict is none of the three or of no arm, or rows and folders do not match.
    """
    for verdict in verdicts:
        if verdict["verdict"] not in VERDICTS:
            raise ValueError(f"verdict of `{verdict['name']}`: `{verdict['verdict']}` is none of {', '.join(VERDICTS)}")
    arms = make_arms(table, [read_run(run) for run in _in_order(runs, table)])
    names = [arm.name for arm in arms]
    for verdict in verdicts:
        if verdict["name"] not in names:
            raise ValueError(f"verdict of `{verdict['name']}`: there is no such arm, only {', '.join(names)}")
    return _write(out, arms=arms, title=title, headline=_headline(verdicts), verdicts=list(verdicts), command=command)


def _in_order(runs: Sequence[Path], table: Sequence[dict[str, Any]]) -> list[Path]:
    """The run folder of every row: by name where names are unique, else by position."""
    by_name = {run.name: run for run in runs}
    names = [row.get("name") for row in table]
    if len(by_name) == len(runs) == len(names) and set(names) == set(by_name):
        return [by_name[str(name)] for name in names]
    if len(runs) != len(names):
        raise ValueError(f"`table` has {len(names)} rows for {len(runs)} run folders; give one row for every folder")
    return list(runs)


def _headline(verdicts: Sequence[dict[str, str]]) -> str:
    kinds: dict[str, set[str]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict["name"], set()).add(verdict["verdict"])
    found = {name: kind.pop() if len(kind) == 1 else "mixed" for name, kind in kinds.items()}
    parts = []
    for kind, label in (
        ("gain", "Helps at the settings named below"),
        ("mixed", "Depends on the comparison"),
        ("no gain", "No gain"),
        ("worse", "Worse"),
    ):
        if names := [name for name in found if found[name] == kind]:
            parts.append(f"{label}: {', '.join(names)}.")
    return " ".join(parts) or "No verdict: nothing was named to compare with."


def _run_headline(arm: Arm) -> str:
    best: tuple[float, Setting] | None = None
    for setting in arm.results:
        estimate = arm.estimate(setting, "frechet")
        if estimate and (best is None or estimate.value < best[0]):
            best = estimate.value, setting
    if best is None:
        return "Not evaluated yet."
    value, (scheduler, calls) = best
    lowest = floor([arm], best[1])
    times = f", {number(value / lowest)} times the floor of {number(lowest)}" if lowest else ""
    return f"Best Frechet distance {number(value)} ({scheduler}, {calls} network calls){times}."


def _write(
    out: Path, *, arms: list[Arm], title: str, headline: str, verdicts: list[dict[str, str]], command: str
) -> Path:
    columns, rows, floors = make_table(arms)
    measured = sorted({measured_with(r) for arm in arms for results in arm.results.values() for r in results})
    finals, grids, notes = _images(arms)
    costs = cost_panels(arms)
    curves, flat = curve_panels(arms)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html.j2").render(
        title=title,
        headline=headline,
        verdicts={arm.name: [v for v in verdicts if v["name"] == arm.name] for arm in arms},
        arms=arms,
        colours=_colours(arms, {verdict["name"] for verdict in verdicts}),
        columns=columns,
        rows=rows,
        floors=floors,
        over_seeds=any(len(arm.runs) > 1 for arm in arms),
        intervals=any(" to " in cell.spread for row in rows for cell in row.cells),
        schedulers=list(dict.fromkeys(scheduler for scheduler, _ in settings(arms))),
        measured=measured,
        quality=quality_panels(arms),
        costs=costs,
        curves=curves,
        flat=flat,
        costs_default=_fullest([case["arms"] for case in costs]),
        finals=finals,
        finals_default=_fullest([len(case["images"]) for case in finals]),
        grids=grids,
        steps=sorted({step for grid in grids.values() for step in grid}),
        neighbours=[
            (arm, image) for arm in arms if (image := arm.runs[0].neighbours and embed(arm.runs[0].neighbours))
        ],
        notes=notes,
        command=command,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _colours(arms: Sequence[Arm], judged: set[str]) -> dict[int, str]:
    """CSS colour variable of every arm: greys for the first two that are not judged while others are."""
    greys = iter(("--r0", "--r1"))
    colours: dict[int, str] = {}
    for arm in arms:
        grey = next(greys, None) if judged and arm.name not in judged else None
        colours[arm.number] = grey or f"--s{sum(c.startswith('--s') for c in colours.values()) % COLOURS}"
    return colours


def _images(arms: Sequence[Arm]) -> tuple[list[dict[str, Any]], dict[int, dict[int, Embedded]], list[tuple[str, str]]]:
    """Final grids by setting, training grids by arm and step, and notes (arm, sentence) about everything missing."""
    notes = [
        (run.path.name if len(arm.runs) > 1 else arm.name, note)
        for arm in arms
        for run in arm.runs
        for note in run.notes
    ]
    grids: list[dict[int, Embedded]] = []
    finals: dict[Setting, dict[int, Embedded]] = {}
    for arm in arms:
        run = arm.runs[0]
        chosen = spread_out(list(run.grids), MOST_STEPS)
        grids.append({step: image for step in chosen if (image := embed(run.grids[step]))})
        broken = len(chosen) - len(grids[-1])
        for setting, file in run.finals.items():
            if image := embed(file):
                finals.setdefault(setting, {})[arm.number] = image
            else:
                broken += 1
        if broken:
            notes.append((arm.name, f"{broken} sample grid{'s' * (broken > 1)} could not be read."))
    kept = within_budget(grids, GRID_BUDGET, MOST_STEPS)
    for arm, grid in zip(arms, kept, strict=True):
        if 0 < len(grid) < (saved := len(arm.runs[0].grids)):
            notes.append((arm.name, f"grids of {len(grid)} of {saved} saved steps are shown."))
    cases: list[dict[str, Any]] = []
    spent = 0
    for setting, images in sorted(finals.items(), key=lambda item: (-len(item[1]), item[0])):
        spent += sum(len(image.uri) for image in images.values())
        if spent > FINAL_BUDGET and cases:
            notes.append(
                ("Page", "some final grids are left out to keep the file small; they are in the samples folders.")
            )
            break
        cases.append({"setting": setting, "images": images})
    cases.sort(key=lambda case: case["setting"])
    return cases, {arm.number: grid for arm, grid in zip(arms, kept, strict=True) if grid}, notes


def _fullest(sizes: Sequence[int]) -> int:
    """Index of the first of the largest, 0 where there is none: the case shown first."""
    return max(range(len(sizes)), key=lambda index: sizes[index], default=0)
