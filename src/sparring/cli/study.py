"""Train arms over seeds on settings, measure them alike, and write tables, verdicts and a page.

FILE is a study of the package or a YAML file (docs/guides/studies.md has the format). Runs are kept: an interrupted
study goes on with the same command, and other seeds can run beside it.

examples:
  sparring study smoke
  sparring study adt-digits --seeds 0 1 2 --arms adt plain-calls
  sparring study sadm-fashion16 --data DATA_FOLDER
  sparring study my-study.yaml --print --write docs/results
"""

import argparse
import shlex
import sys
from pathlib import Path

from sparring.cli.terminal import path, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="FILE", help="name of a study of the package, or a YAML file")
    parser.add_argument(
        "--out", type=path, default=Path("runs/studies"), help="folder of the runs and results (default: runs/studies)"
    )
    parser.add_argument("--data", type=path, metavar="FOLDER", help="folder that DATA stands for in the study")
    parser.add_argument("--seeds", type=int, nargs="+", help="these instead of those of the study")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="these arms only, and those that they need")
    parser.add_argument("--print", action="store_true", help="train and measure nothing, print what is there")
    parser.add_argument(
        "--write",
        type=path,
        nargs="?",
        const=Path("docs/results"),
        metavar="FOLDER",
        help="also write FOLDER/data/STUDY.json, and the tables of FOLDER/*.md that name it (default: docs/results)",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="trust this package: recipes of the study may use its classes (repeatable)",
    )


def run(options: argparse.Namespace) -> int:
    from sparring.experiments.study import BASELINE, check_seeds, read_study

    study = read_study(options.study)
    seeds = options.seeds or study.seeds
    check_seeds(seeds)
    for name in options.arms or ():
        if name not in study.arms:
            raise ValueError(f"`arms={name}`: the study {study.name} has {'; '.join(study.arms)}")
    arms = study.with_needed([BASELINE, *(study.arms if options.arms is None else options.arms)])
    if options.write is not None and options.arms is not None:
        raise ValueError("`--write` needs every arm of the study: leave out --arms")
    if options.write is not None and not options.write.is_dir():
        raise ValueError(f"`write={options.write}` is not a folder")
    quiet()
    from sparring.experiments.collect import collect, further_seeds, missing
    from sparring.experiments.runner import run_study
    from sparring.experiments.study_runs import StudyRuns
    from sparring.experiments.write import write_all, write_documents
    from sparring.training import Interrupted

    runs = StudyRuns(study, options.out, options.data, options.allow)
    words = ["sparring", "study", options.study, *(["--data", "DATA"] if options.data else [])]
    words += [word for name in options.allow for word in ("--allow", name)]
    command = shlex.join([*words, *(["--seeds", *map(str, seeds)] if seeds != study.seeds else [])])
    if not options.print:
        try:
            run_study(runs, seeds, arms, say=lambda line: print(line, file=sys.stderr))
        except Interrupted as stopped:
            print(f"sparring: {stopped}; the same command goes on from here", file=sys.stderr)
            return stopped.exit_code
    lacking = missing(runs, seeds, arms)
    if lacking and options.write is not None:
        raise ValueError(f"`--write` needs every seed of every arm, and there is {lacking[0]}: run it without --print")
    results = collect(runs, seeds, arms, command)
    print(results.markdown())
    for line in lacking:
        print(f"warning: {line}", file=sys.stderr)
    if others := further_seeds(runs, seeds, arms):
        every = shlex.join(
            [*words, "--seeds", *map(str, sorted([*seeds, *others])), "--out", str(options.out), "--print"]
        )
        print(f"seeds {', '.join(map(str, others))} are there, too; one table of all: {every}", file=sys.stderr)
    for file in write_all(runs, results, seeds, arms):
        print(file)
    if options.write is not None:
        for file in write_documents(results, options.write):
            print(file)
    return 0
