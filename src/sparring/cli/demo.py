"""Tune a trained baseline on real digits by several methods, and say what helped."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sparring.cli.terminal import path, quiet

QUICK: dict[str, Any] = {"share": 0.2, "calls": {"ddim": (2, 5), "unipc": (3, 5, 10)}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=path, default=Path("runs/demo"), help="folder of the runs (default: runs/demo)")
    parser.add_argument("--quick", action="store_true", help="90 seconds instead of 4 to 5 minutes; rougher numbers")
    parser.add_argument("--seed", type=int, default=0, help="seed of every arm")


def run(options: argparse.Namespace) -> int:
    quiet()
    import time

    from sparring.cli.tables import print_comparison
    from sparring.evaluation import Comparison, verdicts
    from sparring.experiments.demo import Demo
    from sparring.recipes.systems import systems
    from sparring.report import write_comparison, write_run_report
    from sparring.runs import is_run, summarise
    from sparring.training import Interrupted

    started = time.monotonic()
    try:
        folders = Demo(options.out, options.seed, **(QUICK if options.quick else {})).run()
    except Interrupted as stopped:
        print("sparring: stopped; the same command goes on from here", file=sys.stderr)
        return stopped.exit_code
    for folder in filter(is_run, folders):
        write_run_report(folder)
    comparison = Comparison.of([summarise(folder) for folder in folders])
    found = verdicts(comparison)
    page = write_comparison(
        comparison,
        options.out / "report.html",
        verdicts=found,
        title="sparring demo: a trained diffusion model of real digits, tuned by several methods",
        command="sparring demo"
        + (" --quick" if options.quick else "")
        + (f" --seed {options.seed}" if options.seed else ""),
    )
    print_comparison(comparison, found)
    known = [f"{one.recipe} {one.status}" for one in systems() if one.recipe in {folder.name for folder in folders}]
    print(f"One seed each; the studies of several seeds say: {', '.join(known)} (sparring systems).")
    print(f"page: {page}   time: {(time.monotonic() - started) / 60:.1f} minutes")
    return 0
