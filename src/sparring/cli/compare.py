"""Compare runs: one table, one page.

example:
  sparring compare runs/demo/* --out report.html
"""

import argparse
import json
import shlex

from sparring.cli.terminal import path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=path, metavar="RUN", help="run folders; NAME-s0, NAME-s1 … are seeds of one arm"
    )
    parser.add_argument("--out", type=path, help="also write the page, an HTML file")
    parser.add_argument(
        "--budget",
        choices=["calls", "seconds"],
        help="judge against plain runs that spent at least as much on training (default: against all plain runs)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    from sparring.evaluation import Comparison, verdicts
    from sparring.runs import summarise

    for folder in options.runs:
        if not folder.exists():
            raise ValueError(f"{folder} does not exist: give run folders")
    if options.out is not None and options.out.is_dir():
        raise ValueError(f"`out={options.out}` is a folder: give the name of an HTML file")
    runs = [summarise(folder) for folder in options.runs if folder.is_dir() or not folder.suffix]
    if not runs:
        raise ValueError("no run folder given")
    comparison = Comparison.of(runs)
    found = verdicts(comparison, options.budget)
    if options.out:
        from sparring.report import write_comparison

        command = shlex.join(["sparring", "compare", *(str(run.folder) for run in runs)])
        write_comparison(runs, options.out, verdicts=found, command=command)
    if options.json:
        print(json.dumps({"runs": [run.to_json() for run in runs], "verdicts": [one.to_json() for one in found]}))
        return 0
    from sparring.cli.tables import print_comparison

    print_comparison(comparison, found)
    if options.out:
        print(f"page: {options.out}")
    return 0
