"""One rollout for both players against one player a step: what a student of one call is worth at equal time.

    python benchmarks/equal_time.py --clock process
    python benchmarks/equal_time.py --smoke

Public training code of few-step students updates one player a step, each on images that it draws for itself; those
that the discriminator learns from are drawn without a graph. Here those of a step serve both players. Both patterns
make D2O of one denoiser of digits, with the same losses, optimisers and number of seconds, and are measured alike.
What belongs to a step is set to belong to an update: the average's decay, and how often R1 is taken.
"""

import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from timing import arguments, in_turns, looped, machine, note, publish, table
from trainers import SMALL_BACKBONE, stepper

from sparring.cli.main import main as sparring
from sparring.data import Batch
from sparring.methods.adversarial_student import StudentRollout
from sparring.methods.distillation.d2o import D2O
from sparring.methods.method import Losses
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.runs.results import read_results
from sparring.training import Trainer

PATTERNS = ("both players a step", "one player a step")


class OnePlayer(D2O):
    """D2O whose players take turns: the discriminator in even steps, the student in odd ones."""

    def rollout(self, batch: Batch) -> StudentRollout:
        with torch.set_grad_enabled(self.step % 2 == 1):
            return super().rollout(batch)

    def discriminator_loss(self, batch: Batch, rollout: StudentRollout) -> Losses:
        return super().discriminator_loss(batch, rollout) if self.step % 2 == 0 else {}

    def generator_loss(self, batch: Batch, rollout: StudentRollout) -> Losses:
        return super().generator_loss(batch, rollout) if self.step % 2 == 1 else {}


def student(pattern: str, start: Path, out: Path, steps: int, seed: int) -> Trainer:
    """The trainer of a student, from the denoiser in a folder."""
    settings = {**compose("d2o", "digits-vp", tuned=True), "denoiser": {"path": str(start)}}
    flags = [f"--trainer.steps={steps}", f"--trainer.seed={seed}", SMALL_BACKBONE]
    options, parsed = recipe.parse(settings, flags, tuned=True)
    torch.manual_seed(seed)
    objects = options.instantiate(parsed)
    method, chosen = objects.method, objects.trainer.as_dict()
    if pattern == PATTERNS[1]:
        every, gamma = 2 * method.r1_every, method.r1_gamma / 2
        method = OnePlayer(method.generator, method.discriminator, r1_gamma=gamma, r1_every=every)
        chosen["ema_decay"] **= 0.5
    return Trainer(method, objects.data, out=out, **chosen)


def distance(run: Path, n: int) -> float:
    """The Frechet distance of samples of one call."""
    flags = ["--steps", "1", "--n", str(n), "--features", "classifier", "--train", "digits"]
    if sparring(["evaluate", str(run), "--reference", "digits", *flags]):
        raise RuntimeError(f"{run} could not be evaluated")
    return read_results(run)[-1].frechet


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, repeats=3, argv=argv, steps=(800, "steps of both players"))
    started_on = machine()
    steps, base, n = (8, 8, 60) if args.smoke else (args.steps, 2000, 1000)
    now = time.perf_counter if args.clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {pattern: [] for pattern in PATTERNS}
    made: dict[str, list[int]] = {pattern: [] for pattern in PATTERNS}
    found: dict[str, list[float]] = {pattern: [] for pattern in PATTERNS}
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        for seed in range(1 if args.smoke else args.repeats):
            folder = Path(name) / f"seed{seed}"
            start = folder / "base"
            fit = ["fit", "diffusion", "--on", "digits-vp", "--trainer.steps", str(base), "--trainer.seed", str(seed)]
            sparring([*fit, "--out", str(start)])
            trials = {one: student(one, start / "pipeline", folder / "trials", steps, seed) for one in PATTERNS}
            rounds = 1 if args.smoke else 6
            times = in_turns({one: looped(stepper(trial)) for one, trial in trials.items()}, rounds, args.clock, 32)
            ours, theirs = (median(times[one]) for one in PATTERNS)
            for pattern in PATTERNS:
                many = steps if pattern == PATTERNS[0] else round(steps * ours / theirs)
                trainer, began = student(pattern, start / "pipeline", folder / pattern, many, seed), now()
                trainer.fit()
                seconds[pattern].append(now() - began)
                made[pattern].append(many)
                found[pattern].append(distance(folder / pattern, n))
                note(f"seed {seed}, {pattern}: {many} steps, {seconds[pattern][-1]:.0f} s, {found[pattern][-1]:.3f}")
    rows: list[list[object]] = []
    for pattern in PATTERNS:
        values = found[pattern]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        updates = fmean(made[pattern]) / (1 if pattern == PATTERNS[0] else 2)
        rows.append([pattern, f"{updates:.0f}", f"{fmean(seconds[pattern]):.0f}", f"{fmean(values):.3f}{spread}"])
    publish("equal_time", [table(["D2O, digits", "updates of each", "seconds", "distance"], rows)], args, started_on)


if __name__ == "__main__":
    main()
