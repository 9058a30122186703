"""Average the weights of a run anew, or take the average of an earlier checkpoint, without training again.

examples:
  sparring fit diffusion --on digits --trainer.ema_snapshots 32 --out runs/base
  sparring ema runs/base --std 0.1 --out short
  sparring evaluate short --reference digits
  sparring fit diffusion --on digits --trainer.keep_best true --trainer.checkpoint_every 200 --out runs/kept
  sparring ema runs/kept --step best --out best
"""

import argparse

from sparring.cli.terminal import path, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path, metavar="RUN", help="run with snapshots of its averages, or checkpoints")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--std", type=float, help="width of a new average, as a share of the run: 0.01 to 0.28; needs snapshots"
    )
    which.add_argument(
        "--step", type=checkpoint, help="checkpoint whose average is written, or best: that of the lowest error"
    )
    parser.add_argument("--out", type=path, required=True, help="the new folder, to sample and evaluate")
    parser.add_argument("--allow", nargs="+", default=[], help="further packages whose classes the run may name")


def run(options: argparse.Namespace) -> int:
    quiet()
    from sparring.cli.sampling import sample_steps
    from sparring.recipes.average import write_average

    write_average(options.run, options.out, std=options.std, step=options.step, allow=options.allow)
    how = f"with a width of {options.std:g} of the run" if options.step is None else f"as at checkpoint {options.step}"
    print(f"{options.out}: the average of {options.run}, {how}")
    print(f"next: sparring sample {options.out} --steps {sample_steps(options.run)}")
    return 0


def checkpoint(text: str) -> int | str:
    """A step, or "best"."""
    if text != "best" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} must be the number of a step, or best")
    return text if text == "best" else int(text)
