"""Reads what a run folder holds for the page, and says what is missing or broken instead of failing."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.runs.folder import RunFolder
from sparring.runs.results import Setting


@dataclass
class Run:
    """What the page shows of one run besides its results. Every part may be empty; `notes` says what could not be
    read."""

    path: Path
    config_text: str = ""
    command: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # key -> [(step, finite value)]
    grids: dict[int, Path] = field(default_factory=dict)  # training step -> PNG
    fields: dict[int, Path] = field(default_factory=dict)  # of the discriminator, likewise
    finals: dict[Setting, Path] = field(default_factory=dict)
    neighbours: Path | None = None
    notes: list[str] = field(default_factory=list)


def read_run(path: Path) -> Run:
    """Reads a run folder; raises ValueError when it is no folder at all."""
    if not path.is_dir():
        raise ValueError(f"run folder `{path}`: there is no such folder; give the folder that `sparring fit` wrote")
    run, folder = Run(path), RunFolder(path)
    if folder.config.is_file():
        run.config_text = folder.config.read_text(encoding="utf-8", errors="replace")
        run.command = _command(folder.read_config([]))
    _read_curves(run)
    for file in sorted(folder.samples.glob("*.png")):
        if file.stem.isdigit():
            run.grids[int(file.stem)] = file
        elif match := re.fullmatch(r"field-(\d+)", file.stem):
            run.fields[int(match[1])] = file
        elif match := re.fullmatch(r"final-(.+)-(\d+)", file.stem):
            run.finals[Setting(match[1], int(match[2]))] = file
    run.grids, run.fields = dict(sorted(run.grids.items())), dict(sorted(run.fields.items()))
    if (path / "neighbours.png").is_file():
        run.neighbours = path / "neighbours.png"
    return run


def _command(config: dict[str, Any]) -> str:
    """The command line that makes the run again, or ""."""
    made_with = config.get("made_with")
    command = made_with.get("command") if isinstance(made_with, dict) else None
    return str(command or "")


def _read_curves(run: Run) -> None:
    file = RunFolder(run.path).metrics
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    broken = 0
    left_out: dict[str, int] = {}
    for number, line in enumerate(filter(str.strip, lines)):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            broken += 1
            continue
        step = finite(record.pop("step", number))
        for key, value in record.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or step is None:
                continue
            if math.isfinite(value):
                run.curves.setdefault(key, []).append((step, float(value)))
            else:
                left_out[key] = left_out.get(key, 0) + 1
    if not run.curves:
        run.notes.append("metrics.jsonl holds no numbers yet.")
    if broken:
        run.notes.append(f"metrics.jsonl: {broken} unreadable line{'s' * (broken > 1)} left out.")
    for key, count in left_out.items():
        run.notes.append(
            f"metrics.jsonl: {count} value{'s' * (count > 1)} of {key} not finite, left out of the curves."
        )


def finite(value: Any) -> float | None:
    """The number as a finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
