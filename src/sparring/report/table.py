"""Numbers of a comparison: arms out of runs (seeds of one arm together), the table, and how a number is written."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .folder import Run, Setting, finite


@dataclass(frozen=True)
class Column:
    """One column of numbers: key in a result, heading, which end is better (-1 lower, +1 higher, 0 neither), group."""

    key: str
    label: str
    better: int
    group: str


NEAR, COVER, COST = "Distance to real images (lower is better)", "Shares (higher is better)", "Cost"
COLUMNS = (
    Column("frechet", "Frechet", -1, NEAR),
    Column("floor", "Floor", 0, NEAR),
    Column("kernel", "Kernel", -1, NEAR),
    Column("precision", "Precision", 1, COVER),
    Column("recall", "Recall", 1, COVER),
    Column("density", "Density", 1, COVER),
    Column("coverage", "Coverage", 1, COVER),
    Column("seconds_per_step", "Seconds a step", -1, COST),
    Column("network_calls", "Training calls", -1, COST),
    Column("images_per_second", "Images a second", 1, COST),
)
OPTIONAL = {"density", "coverage"}  # shown only where somebody measured them


@dataclass
class Arm:
    """One arm of a comparison: all runs of one name; several of them are seeds of the same thing."""

    number: int
    name: str
    rows: list[dict[str, Any]]
    runs: list[Run]
    results: dict[Setting, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[Any]:
        return [row["seed"] for row in self.rows if row.get("seed") is not None]

    @property
    def method(self) -> str:
        return str(self.rows[0].get("method") or self.runs[0].method)

    def values(self, setting: Setting, key: str) -> list[Any]:
        """One value for every seed: of the result where it has the key, else of the run."""
        if key == "floor":
            floors = [result.get("floor") for result in self.results.get(setting, [])]
            return [floor.get("frechet") for floor in floors if isinstance(floor, dict)]
        rows = {id(result): row for row in self.rows for result in row.get("results") or []}
        return [result.get(key, rows[id(result)].get(key)) for result in self.results.get(setting, [])]

    def cost(self, key: str) -> float | None:
        """Mean over seeds of a number of the run (not of a result)."""
        numbers = [number for row in self.rows if (number := finite(row.get(key))) is not None]
        return statistics.fmean(numbers) if numbers else None


def make_arms(rows: Sequence[dict[str, Any]], runs: Sequence[Run]) -> list[Arm]:
    """Arms in the order of their first rows. A row belongs to the arm `row["arm"]`, without it to `row["name"]`."""
    arms: dict[str, Arm] = {}
    for row, run in zip(rows, runs, strict=True):
        name = str(row.get("arm") or row.get("name") or run.path.name)
        arm = arms.setdefault(name, Arm(len(arms), name, [], []))
        arm.rows.append(row)
        arm.runs.append(run)
        for result in row.get("results") or []:
            if isinstance(result, dict) and finite(result.get("nfe")) is not None:
                arm.results.setdefault((str(result.get("scheduler")), int(result["nfe"])), []).append(result)
    return list(arms.values())


def settings(arms: Sequence[Arm]) -> list[Setting]:
    """All (scheduler, network calls) that were measured, sorted."""
    return sorted({setting for arm in arms for setting in arm.results})


def summary(values: Sequence[Any]) -> tuple[float | None, float | None]:
    """Mean and standard deviation over seeds: (None, None) when a value is missing or not finite, (x, None) for one."""
    numbers = [number for value in values if (number := finite(value)) is not None]
    if not numbers or len(numbers) < len(values):
        return None, None
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


@dataclass
class Cell:
    """One number of the table."""

    text: str
    spread: str = ""
    value: float | None = None
    best: bool = False


def make_table(arms: Sequence[Arm]) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns and rows (arm, scheduler, nfe, cells). A `best` cell beats the other arms at its scheduler and calls."""
    columns = [
        column
        for column in COLUMNS
        if column.key not in OPTIONAL
        or any(column.key in result for arm in arms for results in arm.results.values() for result in results)
    ]
    table = []
    for setting in settings(arms):
        rows: list[dict[str, Any]] = []
        for arm in arms:
            if setting in arm.results:
                cells = [_cell(arm.values(setting, column.key)) for column in columns]
                rows.append({"arm": arm, "scheduler": setting[0], "nfe": setting[1], "cells": cells})
        for index, column in enumerate(columns):
            known = [row["cells"][index] for row in rows if row["cells"][index].value is not None]
            if column.better and len(known) > 1:
                best = max(known, key=lambda cell: cell.value * column.better)
                for cell in known:
                    cell.best = cell.value == best.value and column.group != COST
        table += rows
    return columns, table


def _cell(values: Sequence[Any]) -> Cell:
    mean, spread = summary(values)
    if mean is None:
        measured = any(isinstance(value, int | float) for value in values)
        return Cell("not finite" if measured else "–")
    return Cell(number(mean), f"±{number(spread)}" if spread is not None else "", mean)


def number(value: float) -> str:
    """About three significant digits, thousands with commas."""
    if abs(value) >= 100 or isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"
