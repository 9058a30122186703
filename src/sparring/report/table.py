"""The table of a comparison on the page, and how a number is written."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.evaluation.comparison import Arm, Comparison, Cost, Estimate, Metric
from sparring.runs.results import Floor, Result, Setting

DISTANCE, FIDELITY, COPIES, COSTS = (
    "Distance (lower is better)",
    "Fidelity and diversity (higher is better)",
    "Copies",
    "Cost",
)


@dataclass(frozen=True)
class Column:
    """One column of numbers: key in a result (or of the run), heading, which end is better, group.

    `better` is -1 for lower, +1 for higher, 0 for neither.
    """

    key: Metric
    label: str
    better: int
    group: str


@dataclass(frozen=True)
class CostColumn:
    """One column of numbers of the runs themselves."""

    key: Cost
    label: str
    better: int = 0
    group: str = COSTS


COLUMNS = (
    Column("frechet", "Frechet", -1, DISTANCE),
    Column("kernel", "Kernel", -1, DISTANCE),
    Column("sliced_wasserstein", "Sliced\N{NO-BREAK SPACE}W", -1, DISTANCE),
    Column("precision", "Precision", 1, FIDELITY),
    Column("recall", "Recall", 1, FIDELITY),
    Column("density", "Density", 1, FIDELITY),
    Column("coverage", "Coverage", 1, FIDELITY),
    Column("rare_share", "Rare", 0, FIDELITY),
    Column("class_coverage", "Classes", 1, FIDELITY),
    Column("rarest_class", "Rarest\N{NO-BREAK SPACE}class", 0, FIDELITY),
    Column("class_accuracy", "Accuracy", 1, FIDELITY),
    Column("modes_covered", "Modes", 1, FIDELITY),
    Column("good_share", "Good", 1, FIDELITY),
    Column("psnr", "PSNR", 1, FIDELITY),
    Column("memorisation", "Nearness", 0, COPIES),
    Column("train_share", "Nearer to\N{NO-BREAK SPACE}training", 0, COPIES),
    CostColumn("seconds_per_step", "Seconds a\N{NO-BREAK SPACE}step"),
    CostColumn("network_calls", "Training calls"),
    CostColumn("network_calls_before", "Calls of its\N{NO-BREAK SPACE}start"),
    Column("calls", "Calls an\N{NO-BREAK SPACE}image", 0, COSTS),
    Column("images_per_second", "Images a\N{NO-BREAK SPACE}second", 0, COSTS),
)

ALWAYS = {"frechet", "kernel", "precision", "recall"}  # shown even if nobody measured them


@dataclass
class Cell:
    """One number of the table."""

    text: str
    spread: str = ""
    value: float | None = None
    best: bool = False


@dataclass
class Row:
    """One row of the table: an arm at one scheduler and NFE."""

    arm: Arm
    setting: Setting
    cells: list[Cell]


@dataclass
class Table:
    """Columns, rows, and the floor's cells by its label; columns that nobody measured are left out."""

    columns: list[Column | CostColumn]
    rows: list[Row]
    floors: dict[str, list[Cell]]


def make_table(comparison: Comparison) -> Table:
    """The table; a `best` cell beats the other arms at its scheduler and NFE."""
    places = [(arm, setting) for setting in comparison.settings() for arm in comparison.arms if arm.results(setting)]
    columns = [column for column in COLUMNS if column.key in ALWAYS or any(_known(column, *place) for place in places)]
    rows = [Row(arm, setting, [_cell(column, arm, setting) for column in columns]) for arm, setting in places]
    for setting in comparison.settings():
        at = [row for row in rows if row.setting == setting]
        for index, column in enumerate(columns):
            scores = [column.better * cell.value for row in at if (cell := row.cells[index]).value is not None]
            for row in at if column.better and len(scores) > 1 else []:
                value = row.cells[index].value
                row.cells[index].best = value is not None and column.better * value == max(scores)
    return Table(columns, rows, _floors(comparison, columns))


def _values(column: Column | CostColumn, arm: Arm, setting: Setting) -> list[float | None]:
    if isinstance(column, CostColumn):
        return [getattr(run, column.key) for run in arm.runs]
    return [getattr(result, column.key) for result in arm.results(setting).values()]


def _known(column: Column | CostColumn, arm: Arm, setting: Setting) -> bool:
    values = _values(column, arm, setting)
    if column.key == "calls":  # where it says more than the NFE, as of guidance
        return any(value is not None and round(value, 3) != setting.nfe for value in values)
    return any(values) if isinstance(column, CostColumn) else any(value is not None for value in values)


def _cell(column: Column | CostColumn, arm: Arm, setting: Setting) -> Cell:
    estimate = arm.cost(column.key) if isinstance(column, CostColumn) else arm.estimate(column.key, setting)
    if estimate is None:
        return Cell("not finite" if all(x is not None for x in _values(column, arm, setting)) else "–")
    return Cell(number(estimate.mean), spread(estimate), estimate.mean)


def spread(estimate: Estimate) -> str:
    """The deviation over seeds or the interval as text, "" if neither is known."""
    if estimate.deviation is not None:
        return f"±{number(estimate.deviation)}" if estimate.deviation else ""
    return "" if estimate.interval is None else f"{number(estimate.low)} to {number(estimate.high)}"


def _floors(comparison: Comparison, columns: Sequence[Column | CostColumn]) -> dict[str, list[Cell]]:
    """What real images score against real images, by the way of measuring if there are several."""
    floors: dict[str, Floor] = {}
    for run in (run for arm in comparison.arms for run in arm.runs):
        for result in run.results:
            if result.floor is not None:
                floors.setdefault(measured_with(result), result.floor)
    cells = {}
    for label, low in floors.items():
        values = [low.to_json().get(column.key) for column in columns]
        name = f"real images ({label})" if len(floors) > 1 else "real images"
        cells[name] = [Cell("" if value is None else number(value)) for value in values]
    return cells


def floor(arms: Sequence[Arm], setting: Setting) -> float | None:
    """Mean Frechet floor over the arms at one setting."""
    floors = [result.floor for arm in arms for result in arm.results(setting).values() if result.floor]
    values = [one.frechet for one in floors if one.frechet is not None]
    return sum(values) / len(values) if values else None


def measured_with(result: Result) -> str:
    """How many samples and which features, in words."""
    samples = f"{result.n:,} samples" if result.n else "an unknown number of samples"
    against = f" against {result.n_reference:,} real images" if result.n_reference else ""
    return f"{samples}{against}, features: {result.features or 'not named'}"


def number(value: float) -> str:
    """About three significant digits, thousands with commas."""
    if abs(value) >= 100 or isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"
