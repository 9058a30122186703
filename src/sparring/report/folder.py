"""Reads what a run folder holds, and says what is missing or broken instead of failing."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Setting = tuple[str, int]  # (scheduler, network calls)


@dataclass
class Run:
    """What was found in one run folder. Every part may be empty; `notes` says in plain words what could not be read."""

    path: Path
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # key -> [(step, finite value)]
    results: list[dict[str, Any]] = field(default_factory=list)
    grids: dict[int, Path] = field(default_factory=dict)  # training step -> PNG
    finals: dict[Setting, Path] = field(default_factory=dict)
    neighbours: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """Class name of the method without its module, or "" where the configuration does not say."""
        method = self.config.get("method")
        name = method.get("class_path") if isinstance(method, dict) else method
        return str(name).rsplit(".", 1)[-1] if name else ""

    @property
    def command(self) -> str:
        """The command line that makes the run again, or ""."""
        made_with = self.config.get("made_with")
        command = self.config.get("command") or (made_with.get("command") if isinstance(made_with, dict) else None)
        return " ".join(map(str, command)) if isinstance(command, list) else str(command or "")

    def trainer(self, key: str) -> Any:
        """One setting of the trainer, or None."""
        trainer = self.config.get("trainer")
        return trainer.get(key) if isinstance(trainer, dict) else None


def read_run(path: Path) -> Run:
    """Read a run folder; raises ValueError when it is no folder at all."""
    if not path.is_dir():
        raise ValueError(f"run folder `{path}`: there is no such folder; give the folder that `sparring fit` wrote")
    run = Run(path)
    _read_config(run)
    _read_curves(run)
    _read_results(run)
    for file in sorted((path / "samples").glob("*.png")):
        if file.stem.isdigit():
            run.grids[int(file.stem)] = file
        elif match := re.fullmatch(r"final-(.+)-(\d+)", file.stem):
            run.finals[match[1], int(match[2])] = file
    run.grids = dict(sorted(run.grids.items()))
    if (path / "neighbours.png").is_file():
        run.neighbours = path / "neighbours.png"
    return run


def _read_config(run: Run) -> None:
    file = run.path / "config.yaml"
    if not file.is_file():
        run.notes.append("config.yaml is missing.")
        return
    run.config_text = file.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(run.config_text)
    except yaml.YAMLError:
        config = None
    if isinstance(config, dict):
        run.config = config
    else:
        run.notes.append("config.yaml is not readable as a YAML mapping; its text is shown as it is.")


def _read_curves(run: Run) -> None:
    file = run.path / "metrics.jsonl"
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


def _read_results(run: Run) -> None:
    file = run.path / "results.json"
    if not file.is_file():
        return
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        results = None
    if not isinstance(results, list):
        run.notes.append("results.json is not readable as a list of results.")
        return
    run.results = [result for result in results if isinstance(result, dict)]


def finite(value: Any) -> float | None:
    """The number as a finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
