"""Compare runs: one table, one page.

A folder with the results of `sparring evaluate PIPELINE` may stand among the runs; it is compared as plain training is.

examples:
  sparring compare runs/demo/* --out report.html
  sparring compare PIPELINE runs/adt-s0 runs/adt-s1 runs/adt-s2 --at dpm:10
  sparring compare runs/* --out table.tex
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.cli.terminal import path

if TYPE_CHECKING:
    from sparring.evaluation import Comparison, Verdict
    from sparring.runs import Setting

ENDINGS = (".html", ".csv", ".md", ".tex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=path, metavar="RUN", help="run folders; NAME-s0, NAME-s1 … are seeds of one arm"
    )
    parser.add_argument(
        "--out", type=path, metavar="FILE", help="also write the page (.html), or the table (.csv, .md, .tex)"
    )
    parser.add_argument(
        "--at",
        metavar="SCHEDULER:NFE",
        help="the one setting that the verdicts count, chosen beforehand, such as dpm:10 (default: all settings, with "
        "Holm's correction for their number)",
    )
    parser.add_argument(
        "--budget",
        choices=["calls", "seconds"],
        help="judge against plain runs that spent at least as much on training (default: against all plain runs)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    for folder in options.runs:
        if not folder.exists():
            raise ValueError(f"{folder} does not exist: give run folders")
    from sparring.evaluation import Comparison, verdicts
    from sparring.runs import summarise

    if options.out is not None:
        check_out(options.out)
    at = None if options.at is None else setting(options.at)
    runs = [summarise(folder) for folder in options.runs if folder.is_dir() or not folder.suffix]
    if not runs:
        raise ValueError("no run folder given")
    comparison = Comparison.of(runs)
    found = verdicts(comparison, options.budget, at)
    if options.out is not None:
        write(options, comparison, found)
    if options.json:
        print(json.dumps({"runs": [run.to_json() for run in runs], "verdicts": [one.to_json() for one in found]}))
        return 0
    from sparring.cli.tables import print_comparison

    print_comparison(comparison, found)
    if options.out:
        print(f"{'page' if options.out.suffix == '.html' else 'table'}: {options.out}")
    return 0


def check_out(out: Path) -> None:
    """Refuses what is no file of a known kind."""
    if out.is_dir():
        raise ValueError(f"`out={out}` is a folder: give the name of a file")
    if out.suffix not in ENDINGS:
        raise ValueError(f"`out={out}` must end in one of {', '.join(ENDINGS)}")


def setting(word: str) -> "Setting":
    """The setting that `--at` names."""
    from sparring.runs import Setting

    scheduler, _, nfe = word.rpartition(":")
    if not scheduler or not nfe.isdigit():
        raise ValueError(f"`at={word}` must be a scheduler and a number of network calls, such as dpm:10")
    return Setting(scheduler, int(nfe))


def write(options: argparse.Namespace, comparison: "Comparison", found: "list[Verdict]") -> None:
    """The page, or the table."""
    from sparring.report import write_comparison, write_table

    try:
        if options.out.suffix == ".html":
            words = ["--at", options.at] if options.at else []
            words += ["--budget", options.budget] if options.budget else []
            runs = [run for arm in comparison.arms for run in arm.runs]
            command = shlex.join(["sparring", "compare", *(str(run.folder) for run in runs), *words])
            write_comparison(comparison, options.out, verdicts=found, command=command)
        else:
            write_table(comparison, options.out, verdicts=found)
    except OSError as error:
        raise ValueError(f"`out={options.out}` cannot be written ({error.strerror})") from None
