"""The figures of curves and ablations: what each change of a setting does, at each sampler and NFE.

    python docs/figures/changes.py sadm-curves --control sadm-frozen --out FILE
    python docs/figures/changes.py adt-ablations --control "adt, half" --without "no diffusion loss" --out FILE

A dot is the mean over seeds, a bar their standard deviation, as docs/results/data has them.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from sparring.experiments.results import SAMPLED, StudyResults, mean_of

DATA = Path(__file__).resolve().parents[1] / "results" / "data"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of a study")
    parser.add_argument("--control", required=True, help="the arm of which each row changes one thing")
    parser.add_argument("--without", nargs="*", default=[], help="arms that are too far off to be drawn")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the results files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    name, setting = StudyResults.read(args.data / f"{args.study}.json").setting(None)
    table = setting.table("distance")
    rows = {row[0]: row for row in table.rows if row[0] not in ("baseline", *args.without)}
    arms = [args.control, *(arm for arm in rows if arm != args.control)]
    columns = [place for place, heading in enumerate(table.columns) if SAMPLED.fullmatch(heading)]
    size = (2.6 * len(columns), 0.24 * len(arms) + 1.1)
    figure, panels = plt.subplots(1, len(columns), figsize=size, sharey=True, squeeze=False)
    for panel, column in zip(panels[0], columns, strict=True):
        for place, arm in enumerate(arms):
            if (mean := mean_of(rows[arm][column])) is not None:
                colour = "C1" if arm == args.control else "C7" if arm.startswith("plain") else "C0"
                spread = float(rows[arm][column].partition("±")[2] or 0)
                panel.errorbar(mean, -place, xerr=spread, fmt="o", color=colour, markersize=4, linewidth=1)
                if arm == args.control:
                    panel.axvline(mean, color=colour, linewidth=0.8, alpha=0.6)
        panel.set_title("{}, NFE {}".format(*table.columns[column].split()), fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", alpha=0.3)
    panels[0][0].set_ylim(0.6 - len(arms), 0.6)
    panels[0][0].set_yticks([-place for place in range(len(arms))], arms, fontsize=8)
    figure.supxlabel(f"Frechet distance, {name}, {table.split} (lower is better)", fontsize=9)
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
