"""A figure of samples: a row for each arm of a study, from the same latents.

    python docs/figures/samples.py fashion16 ddim-5 plain-calls adt --out docs/images/adt-fashion.png

The runs are those of `sparring study` (--runs), which keeps the sampled images beside them.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", metavar="SETTING", help="setting of the study")
    parser.add_argument("sampler", help="scheduler and NFE, as in ddim-5")
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    figure, rows = plt.subplots(len(args.arms), 1, figsize=(0.45 * args.columns, 0.95 * len(args.arms)), squeeze=False)
    for axes, arm in zip(rows[:, 0], args.arms, strict=True):
        folder = args.runs / args.place / f"seed{args.seed}" / arm / "images"
        file = next(iter(sorted(folder.glob(f"{args.sampler}-n*.npy"))), None)
        if file is None:
            parser.error(f"{folder} has no samples of {args.sampler}: run the study first")
        images = np.load(file)[: 2 * args.columns].transpose(0, 2, 3, 1)
        two_rows = images.reshape(2, args.columns, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
        height, width = two_rows.shape[0] * two_rows.shape[1], two_rows.shape[2] * two_rows.shape[3]
        picture = two_rows.reshape(height, width, -1)
        axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(arm, fontsize=9, loc="left", pad=2)
        axes.axis("off")
    figure.tight_layout(pad=0.3)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
