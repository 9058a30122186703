"""A figure of training: how statistics of a study's arms go over the steps, mean over seeds.

    python docs/figures/training.py digits "adt, half" paired "frozen discriminator" --out docs/images/adt-training.png

The runs are those of `sparring study` (--runs), whose metrics.jsonl is read.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

SHOWN = {
    "statistics/accuracy": "accuracy of the discriminator",
    "discriminator/adversarial": "its loss",
    "generator/diffusion": "denoising loss",
    "gradient_norm/generator": "gradient norm of the generator",
}


def curve(files: list[Path], name: str) -> tuple[list[int], list[float]]:
    """Steps, and the mean over runs of a statistic at the steps that all of them have."""
    runs = []
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        runs.append({line["step"]: line[name] for line in lines if name in line})
    steps = sorted(set.intersection(*map(set, runs)))
    return steps, [float(np.mean([run[step] for run in runs])) for step in steps]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", metavar="SETTING", help="setting of the study")
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    figure, panels = plt.subplots(1, len(SHOWN), figsize=(3.2 * len(SHOWN), 3.1))
    for arm in args.arms:
        files = [args.runs / args.place / f"seed{seed}" / arm / "metrics.jsonl" for seed in args.seeds]
        for panel, name in zip(panels, SHOWN, strict=True):
            panel.plot(*curve([file for file in files if file.is_file()], name), label=arm, linewidth=1.2)
    for panel, title in zip(panels, SHOWN.values(), strict=True):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    figure.supxlabel("step", fontsize=9)
    figure.legend(handles, names, loc="upper center", ncols=len(names), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
