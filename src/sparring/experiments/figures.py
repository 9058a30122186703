"""Figures of a study, made from its results file."""

from collections.abc import Sequence
from pathlib import Path

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
    from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

    curves = {name: _curves(table.part(arms)) for name, table in tables.items()}
    columns = max(len(panels) for panels in curves.values())
    figure, axes = plt.subplots(
        len(curves), columns, figsize=(4.2 * columns, 3.4 * len(curves)), squeeze=False, sharey="row"
    )
    for row, (setting, panels) in zip(axes, curves.items(), strict=True):
        for axis in row[len(panels) :]:
            axis.set_axis_off()
        for axis, (scheduler, lines) in zip(row, panels.items(), strict=False):
            for number, (arm, points) in enumerate(lines.items()):
                nfe, mean, spread = zip(*points, strict=True)
                style = "--" if number == 0 else "-"
                axis.errorbar(
                    nfe, mean, yerr=spread, fmt=f"o{style}", markersize=3, linewidth=1.2, capsize=2, label=arm
                )
            axis.set(title=f"{setting}, {scheduler}", xlabel="NFE", xscale="log", yscale="log")
            ticks = sorted({n for points in lines.values() for n, _, _ in points})
            axis.set_xticks(ticks, [str(n) for n in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set(
                major_locator=MaxNLocator(6), major_formatter=ScalarFormatter(), minor_formatter=NullFormatter()
            )
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"Frechet distance, {tables[setting].features}")
        row[0].legend(fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, metadata={"Software": None})
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
