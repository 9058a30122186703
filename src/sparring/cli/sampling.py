"""What `sample` and `evaluate` share: the options of the sampler, what is added to it, sweeps, progress."""

import argparse
import sys
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sparring.generators import Generator
    from sparring.generators.predictor import Intervention

SWEEP: dict[str, list[Any]] = {
    "steps": [5, 10, 20, 50],
    "scheduler": ["ddim", "dpm", "unipc", "heun"],
    "guidance": [1.0, 2.0, 4.0],
}
"""What `--sweep` goes through if it is not said; schedulers that a process does not have are left out."""


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options of the sampler."""
    parser.add_argument("--n", type=int, help="number of images")
    parser.add_argument("--steps", type=int, nargs="+", help="sampler steps (default: those of the run's method, 10)")
    parser.add_argument(
        "--scheduler",
        nargs="+",
        help="ddim, dpm, unipc, euler, heun, churn (of EDM), ddpm, ddpm_large, lcm (default: the pipeline's own)",
    )
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="scale of classifier-free guidance (default: 1, none)"
    )
    parser.add_argument(
        "--guidance_interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only if sigma / alpha lies in (LOW, HIGH] (default: always)",
    )
    words = "; ".join(f"{name} {' '.join(f'{value}' for value in values)}" for name, values in SWEEP.items())
    parser.add_argument("--sweep", action="store_true", help=f"all combinations; what is not given: {words}")
    parser.add_argument("--batch_size", type=int, help="images at once (default: 256, or fewer of large ones)")
    add_allow(parser)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="trust this package, or this module of the working folder: its classes may be named (repeatable)",
    )


def add_push_to_hub(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--push_to_hub",
        metavar="OWNER/NAME",
        help="upload the run's pipeline with a card to the Hugging Face hub when done (default: nothing leaves this "
        "machine)",
    )


def check_sampling(options: argparse.Namespace) -> None:
    """Fills in what was not said; refuses numbers below 1, and slips behind `--with`."""
    from sparring.recipes.with_systems import groups

    groups(options.rest)
    options.given = {name for name in SWEEP if getattr(options, name) is not None}
    for name, plain in (("steps", None), ("scheduler", None), ("guidance", 1.0)):
        if name not in options.given:
            setattr(options, name, SWEEP[name] if options.sweep else [plain])
    if options.guidance_interval is not None and set(options.guidance) == {1.0}:
        how = "of what --with adds it is --with.interval" if options.rest else "give --guidance, too"
        raise ValueError(f"`guidance_interval`: there is no guidance that it could be of: {how}")
    numbers = [("n", options.n), ("batch_size", options.batch_size), *(("steps", steps) for steps in options.steps)]
    for name, value in numbers:
        if value is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")


def sweep_of(
    source: "str | Path",
    options: argparse.Namespace,
    generator: "Generator",
    seeds: list[Any],
    using: "Sequence[Intervention]",
) -> list[tuple[str | None, int, float, Any]]:
    """All combinations of scheduler, steps, guidance and seed that were asked for.

    With `--sweep`, a scheduler that the generator does not have, what cannot go with `using`, steps that a scheduler
    cannot make, and guidance of a network that cannot say "none" are left out, unless they were given.

    Raises:
        ValueError: nothing is left, or what was given cannot be.
    """
    from sparring.generators import Sampling

    guides = any(one.needs_none for one in using)
    schedulers, guidance = options.scheduler, options.guidance
    if options.sweep and "guidance" not in options.given and (guides or not generator.takes_guidance):
        guidance = [1.0]
    found: list[tuple[str | None, int, float, Any]] = []
    refused: dict[str, ValueError] = {}
    every = [steps or sample_steps(source) for steps in options.steps]
    for scheduler, steps, weight, seed in product(schedulers, every, guidance, seeds):
        try:
            interval = None if weight == 1 or options.guidance_interval is None else tuple(options.guidance_interval)
            how = dict(guidance=weight, guidance_interval=interval, using=using)
            sampling = Sampling(n=1, steps=steps, scheduler=scheduler, **how)
            generator.check_sampling(sampling)
        except ValueError as error:
            if not options.sweep or {"scheduler", "steps"} <= options.given:
                raise
            refused |= {f"scheduler {scheduler}": error, f"steps {steps}": error}
            continue
        found.append((scheduler, steps, weight, seed))
    if not found:
        raise ValueError(f"`--sweep`: there is nothing to sweep: {next(reversed(refused.values()))}")
    for name, wanted, left in (("scheduler", schedulers, 0), ("steps", every, 1)):
        for lost in [value for value in wanted if value not in {one[left] for one in found}]:
            if name in options.given:
                raise refused[f"{name} {lost}"]
    return found


def sample_steps(source: "str | Path") -> int:
    """Sampler steps that the method of a run is trained for; 10 of what is no run."""
    from sparring.runs import RunFolder, is_run

    made_with = RunFolder(source).read_config().get("made_with") if is_run(source) else None
    return (made_with or {}).get("sample_steps", 10)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """What to do with files that are not plain images of a folder."""
    parser.add_argument("--on_error", choices=["stop", "skip"], help="what to do with images that cannot be read")
    parser.add_argument(
        "--follow_links", action="store_true", default=None, help="also read images behind symbolic links"
    )


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of a `Sampling` beside its numbers, seeds, classes and captions; opens further models."""
    interval, using = options.guidance_interval, []
    if options.rest:
        from sparring.recipes.with_systems import interventions

        using = interventions(options.rest, options.allow)
    return {
        "guidance_interval": None if interval is None else tuple(interval),
        "using": using,
        "batch_size": options.batch_size,
    }


def check_by_itself(source: "str | Path") -> None:
    """Refuses the run of what only adds to another denoiser, such as a delta of its outputs."""
    from sparring.runs import RunFolder, is_run

    if not is_run(source):
        return
    config = RunFolder(source).read_config()
    if "beside" in (config.get("made_with") or {}):
        base = ((config.get("method") or {}).get("init_args") or {}).get("denoiser")
        raise ValueError(
            f"{source} makes no images by itself: it was trained beside {base}; sample that, --with what uses this run "
            "(`sparring systems sampling`)"
        )


def shown_settings(options: argparse.Namespace) -> bool:
    """Whether `--with.help` asks what the settings of a system mean, which is printed then."""
    if not any(word == "--with.help" for word in options.rest):
        return False
    from sparring.recipes.explain import text
    from sparring.recipes.with_systems import class_of, groups

    for name, _ in groups(options.rest):
        print(text("with", class_of(name), {}))
    return True


class Progress:
    """Where a measurement or a sampling is, on stderr: a live line on a terminal, else a line now and then.

    Args:
        total: number of measurements or samplings.
    """

    def __init__(self, total: int):
        from rich.console import Console
        from rich.status import Status

        from sparring.data.waiting import Pace

        console = Console(stderr=True)
        self.total, self.begun, self.what = total, 0, ""
        self.live = Status("", console=console) if console.is_terminal else None
        self.pace = Pace(total)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def next(self, what: str) -> None:
        """Another one begins; the first starts the clock."""
        self.pace.total = self.total  # a sweep counts on the way
        if self.begun == 0:
            self.pace.begin(at_once=self.total > 1)
        self.begun += 1
        self.what = f"[{self.begun}/{self.total}] {what}" if self.total > 1 else what
        if self.live is not None:
            self.live.start()
        self.show(0.0)

    def show(self, share: float) -> None:
        """So much of it is done, from 0 to 1."""
        if self.live is None and not self.pace.due():
            return
        line = f"{self.what}{f': {share:.0%}' if share > 0 else ''}{self.pace.left(self.begun - 1 + share)}"
        if self.live is not None:
            self.live.update(line)
        else:
            print(line, file=sys.stderr, flush=True)
