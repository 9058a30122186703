"""The tables of docs/results.md on digits: the demo's arms and their controls, over seeds.

    python benchmarks/digits_results.py --out runs/results --seeds 0 1 2

makes, for each seed, the runs of `sparring demo` and, from the same baseline, the controls below; then prints one table
and the verdicts over all seeds as Markdown. What is finished is kept, so the command can be stopped and started again.
"""

import argparse
import sys
from pathlib import Path

from sparring.cli import main, quiet
from sparring.comparison import row, settings, verdicts
from sparring.tables import distance

CONTROLS = {
    "plain-short": ["plain-digits"],  # as many steps as SADM, ADT and DDO
    "sadm-frozen": ["sadm-digits", "--method.mode=frozen"],
    "sadm-random": ["sadm-digits", "--method.mode=frozen", "--method.discriminator.encoder.pretrain=none"],
    "adt-random": ["adt-digits", "--method.discriminator.backbone.pretrain=none"],
    "adt-dead": ["adt-digits", "--trainer.discriminator_optimizer.lr=1e-12"],  # heads stay at their random start
    "add-alone": ["add-digits", "--method.adversarial_weight=0"],  # distillation without its adversary
}
ORDER = ("baseline", "plain", "plain-short", "sadm", "sadm-frozen", "sadm-random", "adt", "adt-random", "adt-dead")
ORDER += ("ddo", "add", "add-alone")


def make(out: Path, seed: int) -> list[Path]:
    """Trains and measures everything of one seed; returns its runs."""
    quiet()
    from sparring.demo import measure, run_demo
    from sparring.evaluation import Evaluator, RealImages
    from sparring.training.checkpoint import steps_in

    folder = out / f"seed{seed}"
    run_demo(folder, seed=seed)
    for name, (recipe, *flags) in CONTROLS.items():
        run = folder / name
        if not steps_in(run / "checkpoints"):
            init = ["--init", str(folder / "baseline"), "--out", str(run), f"--trainer.seed={seed}"]
            if main(["fit", recipe, *init, *flags]) != 0:
                sys.exit(f"{run} failed")
    evaluator = Evaluator(RealImages.of("digits", None, folder))
    from rich.console import Console

    for name in CONTROLS:
        measure(Console(stderr=True), evaluator, folder / name, 1000)
    return [folder / name for name in ORDER]


def markdown(rows: list[dict]) -> str:
    """Frechet distance, mean and standard deviation over seeds, for every arm and setting."""
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    every = settings(rows)
    lines = ["| arm | ms/step | calls | " + " | ".join(f"{name} {calls}" for name, calls in every) + " |"]
    lines.append("|---|--:|--:|" + "--:|" * len(every))
    for arm in arms:
        mine = [r for r in rows if r["arm"] == arm]
        cost = [f"{1000 * sum(r['seconds_per_step'] for r in mine) / len(mine):.0f}", str(mine[0]["network_calls"])]
        cells = [distance(rows, arm, setting) for setting in every]
        lines.append(f"| {arm} | " + " | ".join([*cost, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows = [row(run) for seed in options.seeds for run in make(options.out, seed)]
    print(markdown(rows))
    print()
    for verdict in verdicts(rows):
        print(f"- **{verdict['name']}**, {verdict['verdict']}. {verdict['sentence']}")
    example = next(result for r in rows for result in r["results"])
    how = f"n = {example['n']} against {example['n_reference']} held-out images, features: {example['features']}"
    print(f"\n{how}, floor {example['floor']['frechet']:.2f}")
