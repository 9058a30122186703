"""The figures of curves and ablations: what each change of a setting does, at each sampler and number of calls.

    python benchmarks/changes_figure.py sadm_results digits-curves --control sadm-frozen --out FILE
    python benchmarks/changes_figure.py adt_results digits-ablations --control "adt, half" \\
        --without "no diffusion loss" --out FILE

The runs are those of the scripts (--runs). A dot is the mean over seeds, a bar their standard deviation.
"""

import argparse
import importlib
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl

mpl.use("Agg")

from arms import rows_of
from matplotlib import pyplot as plt
from sets import SETS

from sparring.evaluation import Comparison
from sparring.runs import Setting


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", help="sadm_results or adt_results")
    parser.add_argument("table", help="one of its tables")
    parser.add_argument("--control", required=True, help="the arm of which each row changes one thing")
    parser.add_argument("--without", nargs="*", default=[], help="arms that are too far off to be drawn")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    table = importlib.import_module(args.script).TABLES[args.table]
    arms = [args.control, *(arm for arm in table.arms if arm not in (args.control, *args.without))]
    comparison = Comparison.of(rows_of(args.runs, table, ["baseline", *arms], args.seeds, "classifier"))
    by_name = {arm.name: arm for arm in comparison.arms}
    plan = table.plan or SETS[table.set].plan
    figure, panels = plt.subplots(1, len(plan), figsize=(2.6 * len(plan), 0.24 * len(arms) + 1.1), sharey=True)
    for panel, setting in zip(panels, plan, strict=True):
        for place, arm in enumerate(arms):
            found = by_name[arm].distance(Setting(*setting)) if arm in by_name else None
            if found is not None:
                values = list(found.values)
                colour = "C1" if arm == args.control else "C7" if arm.startswith("plain") else "C0"
                spread = stdev(values) if len(values) > 1 else 0.0
                panel.errorbar(mean(values), -place, xerr=spread, fmt="o", color=colour, markersize=4, linewidth=1)
                if arm == args.control:
                    panel.axvline(mean(values), color=colour, linewidth=0.8, alpha=0.6)
        panel.set_title(f"{setting[0]}, {setting[1]} calls", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylim(0.6 - len(arms), 0.6)
    panels[0].set_yticks([-place for place in range(len(arms))], arms, fontsize=8)
    figure.supxlabel(f"Frechet distance, {table.set}, {table.split} (lower is better)", fontsize=9)
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
