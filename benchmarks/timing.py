"""What the benchmarks share: timing in turns, the machine in one line, and tables that go into docs/performance.md."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import torch

Times = dict[str, list[float]]
"""Seconds per step of each subject, one per repeat."""


def arguments(
    doc: str | None, *, repeats: int, argv: list[str] | None, **numbers: tuple[int, str]
) -> argparse.Namespace:
    """The command line of a benchmark: `--threads --repeats --clock --smoke --write`, and its own whole numbers.

    Args:
        doc: the script's description.
        repeats: default of `--repeats`.
        argv: the command line; None takes the program's.
        numbers: further options with default and help, such as `batch=(64, "images per step")`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch; its own choice when left out")
    parser.add_argument("--repeats", type=int, metavar="N", default=repeats, help=f"rounds that count ({repeats})")
    parser.add_argument("--clock", choices=["wall", "process"], default="wall", help="process: on a busy machine")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace this benchmark's tables in the page")
    for name, (default, text) in numbers.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default, metavar="N", help=f"{text} ({default})")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def in_turns(calls: Mapping[str, Callable[[int], object]], repeats: int, clock: str = "wall", inner: int = 1) -> Times:
    """Times calls that take turns, A B C, C B A, A B C …, so that whatever slows the machine down hits all of them.

    Args:
        calls: what to time, each called with the number of steps to take; once before, to warm up.
        repeats: rounds that count.
        clock: "wall", or "process": the seconds of this process alone (all its threads together).
        inner: steps in a row that make one measurement.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    seconds: Times = {name: [] for name in calls}
    for call in calls.values():
        call(1 if inner < 5 else 3)
    for repeat in range(repeats):
        for name in list(calls) if repeat % 2 == 0 else reversed(list(calls)):
            synchronize()
            started = now()
            calls[name](inner)
            synchronize()
            seconds[name].append((now() - started) / inner)
    return seconds


def looped(step: Callable[[], object]) -> Callable[[int], None]:
    """A step as something that takes a number of steps."""

    def steps(n: int) -> None:
        for _ in range(n):
            step()

    return steps


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(times: Times, name: str, over: str) -> str:
    """Median of a/b over the rounds, in each of which both were timed, and the middle half of these ratios."""
    if name == over:
        return "1"
    ratios = [a / b for a, b in zip(times[name], times[over], strict=True)]
    if len(ratios) < 3:
        return f"{median(ratios):.3f}"
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"


def saved(times: Times, name: str, over: str) -> str:
    """How much less time the one takes than the other, in per cent; negative if it takes more."""
    if name == over:
        return ""
    return f"{100 * (1 - median(a / b for a, b in zip(times[name], times[over], strict=True))):+.0f} %"


def milliseconds(times: Times, name: str) -> str:
    return f"{1000 * median(times[name]):.1f}"


def machine() -> str:
    """Processor, threads, load and versions, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    if torch.cuda.is_available():
        name = f"{torch.cuda.get_device_name()}, {name}"
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "diffusers", "accelerate"))
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s){load}; "
        f"Python {platform.python_version()}, {versions}"
    )


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    lines: list[Sequence[object]] = [[*header], ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, parts: list[str], args: argparse.Namespace, started_on: str) -> None:
    """Prints the parts (tables and sentences), and with `--write` puts them in the place that the page has for `name`.

    Args:
        name: of the place: the page holds `<!-- table: name -->` and, below it, `<!-- end: name -->`.
        parts: paragraphs.
        args: the command line.
        started_on: `machine()` before the first measurement.

    Raises:
        ValueError: the page has no such place.
    """
    command = " ".join(["python", f"benchmarks/{name}.py", *command_line(args)])
    smoke = ["**A smoke run: it shows that the script works, and its numbers mean nothing.**"] if args.smoke else []
    how = f"`{command}`, {args.repeats} rounds, {args.clock} clock, on {started_on}."
    text = "\n\n".join([*smoke, *parts, how])
    print(text, flush=True)
    if args.write is None:
        return
    page = args.write.read_text(encoding="utf-8")
    opening, closing = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->\n"
    before, found, rest = page.partition(opening)
    _, found_end, after = rest.partition(closing)
    if not (found and found_end):
        raise ValueError(f"{args.write} has no place for this table: it needs the lines {opening}{closing}")
    args.write.write_text(f"{before}{opening}\n{text}\n\n{closing}{after}", encoding="utf-8")


def command_line(args: argparse.Namespace) -> list[str]:
    """The options as they were given, but for the page."""
    given = [option for option in args.given if not option.startswith("--write=")]
    while "--write" in given:
        place = given.index("--write")
        del given[place : place + 2]
    return given


def note(text: str) -> None:
    """Says what is going on, beside the tables."""
    print(text, file=sys.stderr, flush=True)
