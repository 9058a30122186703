"""Figures of a study, made from its results file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.experiments.results import SAMPLED, Table, mean_of


def draw_curves(tables: dict[str, Table], out: Path, arms: Sequence[str] = ()) -> None:
    """Distance over NFE, a row for each setting, a panel for each scheduler, and a line for each arm with its spread.

    Args:
        tables: distances, by the name of their setting.
        out: file of the figure.
        arms: nothing named: all.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

    curves = {name: _curves(table.part(arms)) for name, table in tables.items()}
    columns = max(len(panels) for panels in curves.values())
    figure, axes = plt.subplots(
        len(curves), columns, figsize=(4.2 * columns, 3.4 * len(curves)), squeeze=False, sharey="row"
    )
    for row, (setting, panels) in zip(axes, curves.items(), strict=True):
        names = list(dict.fromkeys(arm for lines in panels.values() for arm in lines))
        colours = mpl.color_sequences["tab10" if len(names) <= 10 else "tab20"]
        shown: dict[str, Any] = {}  # a line of each arm, for the legend
        for axis in row[len(panels) :]:
            axis.set_axis_off()
        for axis, (scheduler, lines) in zip(row, panels.items(), strict=False):
            for arm, points in lines.items():
                nfe, mean, spread = zip(*points, strict=True)
                number = names.index(arm)
                style = {"fmt": "o-" if number else "o--", "color": colours[number % len(colours)]}
                shown[arm] = axis.errorbar(nfe, mean, yerr=spread, **style, markersize=3, linewidth=1.2, capsize=2)
            axis.set(title=f"{setting}, {scheduler}", xlabel="NFE", xscale="log", yscale="log")
            ticks = sorted({n for points in lines.values() for n, _, _ in points})
            axis.set_xticks(ticks, [str(n) for n in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
            low, high = axis.get_ylim()  # of all panels of the row so far
            locator = LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(6)
            axis.yaxis.set_major_locator(locator)
            axis.yaxis.set(major_formatter=StrMethodFormatter("{x:g}"), minor_formatter=NullFormatter())
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"Frechet distance, {tables[setting].features}")
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1.03), "frameon": False}
        row[len(panels) - 1].legend([shown[arm] for arm in names], names, fontsize=8, **beside)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"Software": None} if out.suffix == ".png" else {}  # no version of matplotlib: the file is the same again
    figure.savefig(out, dpi=110, bbox_inches="tight", metadata=about)
    plt.close(figure)


def _curves(table: Table) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """NFE, mean and standard deviation, by scheduler and arm."""
    found: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for column, heading in enumerate(table.columns):
        if SAMPLED.fullmatch(heading):
            scheduler, nfe = heading.rsplit(maxsplit=1)
            for cells in table.rows:
                if (mean := mean_of(cells[column])) is not None:
                    spread = float(cells[column].partition("±")[2] or 0)
                    found.setdefault(scheduler, {}).setdefault(cells[0], []).append((int(nfe), mean, spread))
    return found
