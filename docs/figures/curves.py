"""The figures of distance over NFE: a line for each arm of a study.

    python docs/figures/curves.py adt-digits --arms plain-calls adt "m = 10, k = 2" --out docs/images/adt-nfe.png

The numbers are those of docs/results/data.
"""

import argparse
from pathlib import Path

from sparring.experiments.figures import draw_curves
from sparring.experiments.results import StudyResults

DATA = Path(__file__).resolve().parents[1] / "results" / "data"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of a study")
    parser.add_argument("--arms", nargs="*", default=[], help="these only")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the results files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    settings = StudyResults.read(args.data / f"{args.study}.json").settings
    draw_curves({name: setting.table("distance") for name, setting in settings.items()}, args.out, args.arms)


if __name__ == "__main__":
    main()
