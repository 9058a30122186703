"""Puts the page together: a run or a comparison of runs as one HTML file that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from sparring.evaluation.comparison import Arm, Comparison
from sparring.evaluation.verdict import Verdict, seeds_in_words
from sparring.report.figures import COLOURS
from sparring.report.folder import Run, read_run
from sparring.report.images import Embedded, embed, spread_out, within_budget
from sparring.report.panels import cost_panels, curve_panels, quality_panels, sweep_panels
from sparring.report.table import floor, make_table, measured_with, number
from sparring.runs.results import Setting, summarise

MOST_STEPS = 24  # training steps on the slider
GRID_BUDGET, FINAL_BUDGET = 1_200_000, 1_000_000  # bytes of data URIs

Files = Mapping[int, Sequence[Run]]
"""The run folders of every arm, by its number."""
Notes = list[tuple[str, str]]
"""Arm and sentence about what is missing or left out."""


def write_run_report(run: Path, out: Path | None = None) -> Path:
    """Writes the page of one run folder (default: `report.html` in it) and returns its path.

    Whatever the folder does not hold yet is named as missing on the page.

    Raises:
        ValueError: `run` is no folder.
    """
    files = read_run(run)
    comparison = Comparison.of([summarise(run, files.notes)])
    return _write(
        out or run / "report.html",
        comparison,
        [files],
        title=run.name,
        headline=_run_headline(comparison.arms[0]),
        verdicts=[],
        command=files.command,
    )


def write_comparison(
    comparison: Comparison,
    out: Path,
    *,
    verdicts: Sequence[Verdict] = (),
    title: str = "Comparison",
    command: str = "",
) -> Path:
    """Writes the page that compares runs and returns its path.

    Args:
        comparison: the arms; of several seeds the page shows mean and deviation.
        out: HTML file to write.
        verdicts: in the order of reading, by arm. An arm may have several; an arm with none is drawn grey, as what the
            others are compared with.
        command: the command line that makes the comparison again.

    Raises:
        ValueError: a folder is missing.
    """
    return _write(
        out,
        comparison,
        [read_run(run.folder) for arm in comparison.arms for run in arm.runs],
        title=title,
        headline=_headline(verdicts),
        verdicts=list(verdicts),
        command=command,
    )


def _headline(verdicts: Sequence[Verdict]) -> str:
    """What helped, in a line: arms by their words, on how many seeds and settings it rests."""
    words: dict[str, set[str]] = {}
    for verdict in verdicts:
        words.setdefault(verdict.name, set()).add(verdict.word)
    found = {name: next(iter(kinds)) if len(kinds) == 1 else "mixed" for name, kinds in words.items()}
    parts = [
        f"{label}: {', '.join(names)}."
        for kind, label in (
            ("gain", "Helps"),
            ("mixed", "Depends on the setting"),
            ("no gain", "No gain"),
            ("worse", "Worse"),
            ("not compared", "Nothing to compare with"),
        )
        if (names := [name for name in found if found[name] == kind])
    ]
    if not parts:
        return "No verdict: nothing was named to compare with."
    seeds = sorted({verdict.seeds for verdict in verdicts if verdict.seeds})
    named = [one for verdict in verdicts for one in verdict.comparisons if one.scheduler != "any"]
    if not seeds or not named:
        return " ".join(parts)
    schedulers, calls = sorted({one.scheduler for one in named}), sorted({one.nfe for one in named})
    span = f"NFE {calls[0]}" if len(calls) == 1 else f"NFE {calls[0]} to {calls[-1]}"
    counts = seeds_in_words(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    doubt = " Fewer than three seeds say nothing about the spread between trainings." if seeds[0] < 3 else ""
    return f"{' '.join(parts)} From {counts}, with {', '.join(schedulers)} at {span}.{doubt}"


def _run_headline(arm: Arm) -> str:
    known = [(estimate.mean, setting) for setting in sorted(arm.settings()) if (estimate := arm.distance(setting))]
    if not known:
        return "Not evaluated yet."
    value, setting = min(known)
    lowest = floor([arm], setting)
    times = f", {number(value / lowest)} times the floor of {number(lowest)}" if lowest else ""
    return (
        f"Best Frechet distance {number(value)} ({setting.scheduler}, NFE {setting.nfe}){times}. "
        f"{_points(arm, setting)}One seed."
    )


def _points(arm: Arm, setting: Setting) -> str:
    """Modes covered and the share of good points at a setting; "" of what is no mixture."""
    modes, good = arm.estimate("modes_covered", setting), arm.estimate("good_share", setting)
    if modes is None or good is None:
        return ""
    return f"{modes.mean:.0f} modes are covered, and {good.mean:.1%} of the points are good. "


def _write(
    out: Path,
    comparison: Comparison,
    runs: Sequence[Run],
    *,
    title: str,
    headline: str,
    verdicts: list[Verdict],
    command: str,
) -> Path:
    arms = comparison.arms
    by_folder = {run.path: run for run in runs}
    files = {arm.number: [by_folder[run.folder] for run in arm.runs] for arm in arms}
    for folder, lost in comparison.left_out.items():
        how = "measured in another way than what is shown"
        by_folder[folder].notes.append(f"{lost} result{'s' * (lost > 1)} {how} left out.")
    table = make_table(comparison)
    notes = [
        (run.path.name if len(arm.runs) > 1 else arm.name, note)
        for arm in arms
        for run in files[arm.number]
        for note in run.notes
    ]
    first = [files[arm.number][0] for arm in arms]
    grids = _films(arms, [run.grids for run in first], "sample grids", notes)
    fields = _films(arms, [run.fields for run in first], "pictures of the field", notes)
    finals = _finals(arms, first, notes)
    costs = cost_panels(comparison)
    curves, flat = curve_panels([files[arm.number][0] for arm in arms])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = [result for arm in arms for run in arm.runs for result in run.results]
    html = environment.get_template("page.html.j2").render(
        title=title,
        headline=headline,
        verdicts={arm.name: [v for v in verdicts if v.name == arm.name] for arm in arms},
        arms=arms,
        files=files,
        colours=_colours(arms, {verdict.name for verdict in verdicts}),
        columns=table.columns,
        rows=table.rows,
        floors=table.floors,
        same=comparison.same,
        over_seeds=any(len(arm.runs) > 1 for arm in arms),
        intervals=any(" to " in cell.spread for row in table.rows for cell in row.cells),
        schedulers=list(dict.fromkeys(setting.scheduler for setting in comparison.settings())),
        measured=sorted({measured_with(result) for result in results}),
        quality=quality_panels(comparison),
        sweeps=sweep_panels(arms[0]) if len(arms) == 1 else [],
        costs=costs,
        curves=curves,
        flat=flat,
        costs_default=_fullest([case["arms"] for case in costs]),
        finals=finals,
        finals_default=_telling(finals),
        grids=grids,
        large=len(arms) == 1 and any(not image.pixelated for film in grids.values() for image in film.values()),
        fields=fields,
        steps=sorted({step for film in (*grids.values(), *fields.values()) for step in film}),
        neighbours=[
            (arm, image)
            for arm in arms
            if (file := files[arm.number][0].neighbours) is not None and (image := embed(file))
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


def _films(
    arms: Sequence[Arm], files: Sequence[Mapping[int, Path]], what: str, notes: Notes
) -> dict[int, dict[int, Embedded]]:
    """The pictures of training by arm and step; notes take a sentence (arm, text) about those that are missing.

    Args:
        arms: whose they are.
        files: of each arm by step.
        what: they are.
        notes: are added to.
    """
    films: list[dict[int, Embedded]] = []
    for arm, saved in zip(arms, files, strict=True):
        chosen = spread_out(list(saved), MOST_STEPS)
        films.append({step: image for step in chosen if (image := embed(saved[step]))})
        _note_broken(notes, arm, what, len(chosen) - len(films[-1]))
    kept = within_budget(films, GRID_BUDGET, MOST_STEPS)
    for arm, saved, film in zip(arms, files, kept, strict=True):
        if 0 < len(film) < len(saved):
            notes.append((arm.name, f"{what} of {len(film)} of {len(saved)} saved steps are shown."))
    return {arm.number: film for arm, film in zip(arms, kept, strict=True) if film}


def _finals(arms: Sequence[Arm], runs: Sequence[Run], notes: Notes) -> list[dict[str, Any]]:
    """The grids after training by setting and arm; notes take a sentence about those that are missing."""
    finals: dict[Setting, dict[int, Embedded]] = {}
    for arm, run in zip(arms, runs, strict=True):
        broken = 0
        for setting, file in run.finals.items():
            if image := embed(file):
                finals.setdefault(setting, {})[arm.number] = image
            else:
                broken += 1
        _note_broken(notes, arm, "final grids", broken)
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
    return sorted(cases, key=lambda case: case["setting"])


def _note_broken(notes: Notes, arm: Arm, what: str, broken: int) -> None:
    if broken:
        notes.append((arm.name, f"{broken} of the {what} could not be read."))


def _telling(cases: Sequence[dict[str, Any]]) -> int:
    """Index of the grids shown first: those of most arms, and of these at the NFE nearest to ten."""
    keys = [(-len(case["images"]), abs(math.log(case["setting"].nfe / 10))) for case in cases]
    return min(range(len(keys)), key=keys.__getitem__, default=0)


def _fullest(sizes: Sequence[int]) -> int:
    """Index of the first of the largest, 0 where there is none: the case shown first."""
    return max(range(len(sizes)), key=lambda index: sizes[index], default=0)
