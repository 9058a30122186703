"""Numbers of a comparison: arms out of runs (seeds of one arm together), the table, and how a number is written."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparring.report.folder import Run, Setting, finite
from sparring.runs.checkpoint import steps_in
from sparring.runs.results import common_way, measured_alike


@dataclass(frozen=True)
class Column:
    """One column of numbers: key in a result, heading, which end is better (-1 lower, +1 higher, 0 neither), group."""

    key: str
    label: str
    better: int
    group: str


NEAR, LIKE, COPY, COST = "Distance, lower is better", "Likeness and variety, higher is better", "Copies", "Cost"


COLUMNS = (
    Column("frechet", "Frechet", -1, NEAR),
    Column("kernel", "Kernel", -1, NEAR),
    Column("precision", "Precision", 1, LIKE),
    Column("recall", "Recall", 1, LIKE),
    Column("density", "Density", 1, LIKE),
    Column("coverage", "Coverage", 1, LIKE),
    Column("class_coverage", "Classes", 1, LIKE),
    Column("memorisation", "Nearness", 0, COPY),
    Column("train_share", "Nearer to\N{NO-BREAK SPACE}training", 0, COPY),
    Column("seconds_per_step", "Seconds a\N{NO-BREAK SPACE}step", 0, COST),
    Column("network_calls", "Training calls", 0, COST),
    Column("images_per_second", "Images a\N{NO-BREAK SPACE}second", 0, COST),
)


ALWAYS = {"frechet", "kernel", "precision", "recall"}  # shown even where nobody measured them


@dataclass(frozen=True)
class Estimate:
    """A number and its range: mean and standard deviation over seeds, or a single result and its interval."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def spread(self) -> str:
        """The range as text, "" where none is known."""
        if self.low == self.high:
            return ""
        return f"±{number(self.high - self.value)}" if self.seeds > 1 else f"{number(self.low)} to {number(self.high)}"


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
        rows = {id(result): row for row in self.rows for result in row.get("results") or []}
        return [result.get(key, rows[id(result)].get(key)) for result in self.results.get(setting, [])]

    def estimate(self, setting: Setting, key: str) -> Estimate | None:
        """Mean over seeds; None when it was not measured or one of the values is not finite."""
        values = self.values(setting, key)
        numbers = [x for value in values if (x := finite(value)) is not None]
        if not numbers or len(numbers) < len(values):
            return None
        mean = statistics.fmean(numbers)
        if len(numbers) > 1:
            spread = statistics.stdev(numbers)
            return Estimate(mean, mean - spread, mean + spread, len(numbers))
        interval = self.values(setting, f"{key}_interval")[0]
        if isinstance(interval, list | tuple) and len(interval) == 2:
            low, high = finite(interval[0]), finite(interval[1])
            if low is not None and high is not None:
                return Estimate(mean, low, high, 1)
        return Estimate(mean, mean, mean, 1)

    def cost(self, key: str) -> float | None:
        """Mean over seeds of a number of the run (not of a result)."""
        numbers = [x for row in self.rows if (x := finite(row.get(key))) is not None]
        return statistics.fmean(numbers) if numbers else None


def make_arms(rows: Sequence[dict[str, Any]], runs: Sequence[Run]) -> list[Arm]:
    """Arms in the order of their first rows. A row belongs to the arm `row["arm"]`, without it to `row["name"]`."""
    arms: dict[str, Arm] = {}
    usable = [_usable(row, run) for row, run in zip(rows, runs, strict=True)]
    way = common_way([result for results in usable for result in results])
    for row, run, results in zip(rows, runs, usable, strict=True):
        name = str(row.get("arm") or row.get("name") or run.path.name)
        arm = arms.setdefault(name, Arm(len(arms), name, [], []))
        arm.rows.append(row)
        arm.runs.append(run)
        alike = [result for result in results if measured_alike(result, way)]
        placed = {_place(result): result for result in alike}  # of two results at one setting the later one
        for setting, result in placed.items():
            arm.results.setdefault(setting, []).append(result)
        _note(run, len(results) - len(alike), "measured in another way than what is shown")
    return list(arms.values())


def _usable(row: dict[str, Any], run: Run) -> list[dict[str, Any]]:
    """Results with a number of network calls, of the run's present step; a note about the others."""
    results = [result for result in row.get("results") or [] if isinstance(result, dict)]
    numbered = [result for result in results if finite(result.get("nfe")) is not None]
    steps = steps_in(run.path / "checkpoints")
    present = [result for result in numbered if not steps or result.get("step") in (None, steps[-1])]
    _note(run, len(results) - len(numbered), "without a number of network calls")
    _note(run, len(numbered) - len(present), "of another training step")
    return present


def _place(result: dict[str, Any]) -> Setting:
    return str(result.get("scheduler")), int(result["nfe"])


def _note(run: Run, lost: int, why: str) -> None:
    if lost:
        run.notes.append(f"{lost} result{'s' * (lost > 1)} {why} left out.")


def settings(arms: Sequence[Arm]) -> list[Setting]:
    """All (scheduler, network calls) that were measured, sorted."""
    return sorted({setting for arm in arms for setting in arm.results})


@dataclass
class Cell:
    """One number of the table."""

    text: str
    spread: str = ""
    value: float | None = None
    best: bool = False


@dataclass
class Row:
    """One row of the table: an arm at one scheduler and number of network calls."""

    arm: Arm
    scheduler: str
    nfe: int
    cells: list[Cell]


def make_table(arms: Sequence[Arm]) -> tuple[list[Column], list[Row], dict[str, list[Cell]]]:
    """Columns, rows, and the floor's cells by its label.

    A `best` cell beats the other arms at its scheduler and calls. Columns nobody measured are left out.
    """
    measured = {key for arm in arms for setting in arm.results for key in _keys(arm, setting)}
    columns = [column for column in COLUMNS if column.key in measured | ALWAYS]
    table: list[Row] = []
    for setting in settings(arms):
        measured_arms = [arm for arm in arms if setting in arm.results]
        rows = [Row(arm, *setting, [_cell(arm, setting, column) for column in columns]) for arm in measured_arms]
        for index, column in enumerate(columns):
            scores = [column.better * cell.value for row in rows if (cell := row.cells[index]).value is not None]
            for row in rows if column.better and len(scores) > 1 else []:
                value = row.cells[index].value
                row.cells[index].best = value is not None and column.better * value == max(scores)
        table += rows
    return columns, table, _floors(arms, columns)


def _keys(arm: Arm, setting: Setting) -> set[str]:
    of_runs = {key for row in arm.rows for key in row if row[key] is not None}
    return of_runs.union(*(result.keys() for result in arm.results[setting]))


def _cell(arm: Arm, setting: Setting, column: Column) -> Cell:
    estimate = arm.estimate(setting, column.key)
    if estimate is None:
        measured = any(isinstance(value, int | float) for value in arm.values(setting, column.key))
        return Cell("not finite" if measured else "–")
    return Cell(number(estimate.value), estimate.spread, estimate.value)


def _floors(arms: Sequence[Arm], columns: Sequence[Column]) -> dict[str, list[Cell]]:
    """What real images score against real images, by the way of measuring where there are several."""
    floors: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for result in (result for results in arm.results.values() for result in results):
            if isinstance(floor := result.get("floor"), dict):
                floors.setdefault(measured_with(result), floor)
    cells = {}
    for label, floor in floors.items():
        values = [finite(floor.get(column.key)) for column in columns]
        name = f"real images ({label})" if len(floors) > 1 else "real images"
        cells[name] = [Cell("" if value is None else number(value)) for value in values]
    return cells


def floor(arms: Sequence[Arm], setting: Setting) -> float | None:
    """Mean Frechet floor over the arms at one setting."""
    floors = [value for arm in arms for value in arm.values(setting, "floor") if isinstance(value, dict)]
    numbers = [value for each in floors if (value := finite(each.get("frechet"))) is not None]
    return statistics.fmean(numbers) if numbers else None


def measured_with(result: dict[str, Any]) -> str:
    """How many samples and which features, in words."""
    n, reference = finite(result.get("n")), finite(result.get("n_reference"))
    samples = f"{n:,.0f} samples" if n else "an unknown number of samples"
    against = f" against {reference:,.0f} real images" if reference else ""
    return f"{samples}{against}, features: {result.get('features') or 'not named'}"


def number(value: float) -> str:
    """About three significant digits, thousands with commas."""
    if abs(value) >= 100 or isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"
