"""The table of a comparison as CSV, Markdown or LaTeX."""

import csv
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path

from sparring.evaluation.comparison import Comparison
from sparring.evaluation.verdict import Verdict
from sparring.report.table import Cell, Column, Row, Table, make_table, measured_with

LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "–": "--",
        "±": r"$\pm$",
        "\N{NO-BREAK SPACE}": "~",
    }
)


def write_table(comparison: Comparison, out: Path, *, verdicts: Sequence[Verdict] = ()) -> None:
    """Writes the numbers of the page's table to a file that ends in .csv, .md or .tex.

    CSV has a row for each arm and setting, with mean, standard deviation over seeds and number of seeds; Markdown and
    LaTeX (with the package booktabs) hold the best arm of each setting in bold, and the verdicts below.

    Raises:
        OSError: the file cannot be written.
    """
    write: Mapping[str, Callable[[Comparison, Sequence[Verdict]], str]] = {
        ".csv": as_csv,
        ".md": as_markdown,
        ".tex": as_latex,
    }
    text = write[out.suffix](comparison, verdicts)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def as_csv(comparison: Comparison, _: Sequence[Verdict]) -> str:
    """One row for each arm and setting; what is not known is empty."""
    table, text = make_table(comparison), StringIO()
    names = [name for column in table.columns for name in (column.key, f"{column.key}_deviation")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "method", "scheduler", "nfe", "seeds", *names])
    for row in table.rows:
        numbers: list[float | str] = []
        for column in table.columns:
            arm = row.arm
            found = arm.estimate(column.key, row.setting) if isinstance(column, Column) else arm.cost(column.key)
            numbers += ["", ""] if found is None else [found.mean, "" if found.deviation is None else found.deviation]
        seeds = len(row.arm.results(row.setting))
        writer.writerow([row.arm.name, row.arm.method, *row.setting, seeds, *numbers])
    return text.getvalue()


def as_markdown(comparison: Comparison, verdicts: Sequence[Verdict]) -> str:
    """A table, how it was measured, and the verdicts."""
    table = make_table(comparison)

    def cell(one: Cell) -> str:
        text = f"{one.text} {one.spread}".strip()
        return f"**{text}**" if one.best else text

    lines = [_row(_headings(table)), _row(["---", "---", "--:", *("--:" for _ in table.columns)])]
    lines += [_row([*_place(row), *map(cell, row.cells)]) for row in table.rows]
    for label, cells in table.floors.items():
        lines.append(_row([f"*floor: {label}*", "", "", *(one.text for one in cells)]))
    lines += ["", *_notes(comparison), ""]
    lines += [f"- **{one.name}**, {one.headline}. {one.sentence}" for one in verdicts]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_latex(comparison: Comparison, verdicts: Sequence[Verdict]) -> str:
    """A booktabs table with notes and verdicts as comments."""
    table = make_table(comparison)

    def cell(one: Cell) -> str:
        text = f"{one.text} {one.spread}".strip().translate(LATEX)
        return f"\\textbf{{{text}}}" if one.best else text

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    comments = [*_notes(comparison), *(f"{one.name}, {one.headline}. {one.sentence}" for one in verdicts)]
    lines = [f"% {comment}" for comment in comments]
    lines += [f"\\begin{{tabular}}{{llr{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [line([name.translate(LATEX) for name in _headings(table)]), r"\midrule"]
    lines += [line([*(part.translate(LATEX) for part in _place(row)), *map(cell, row.cells)]) for row in table.rows]
    if table.floors:
        lines.append(r"\midrule")
    for label, cells in table.floors.items():
        lines.append(line([f"floor: {label}".translate(LATEX), "", "", *(one.text.translate(LATEX) for one in cells)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _headings(table: Table) -> list[str]:
    return ["Arm", "Scheduler", "NFE", *(column.label for column in table.columns)]


def _place(row: Row) -> list[str]:
    return [row.arm.name, row.setting.scheduler, str(row.setting.nfe)]


def _notes(comparison: Comparison) -> list[str]:
    """How the numbers were measured, on how many seeds."""
    example = comparison.example()
    seeds = sorted({len(arm.runs) for arm in comparison.arms})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    measured = [] if example is None else [f"Measured on {measured_with(example)}. Seeds of an arm: {counts}."]
    return measured + [f"{a} draws the same images as {b} and is left out." for a, b in comparison.same.items()]
