"""Average the weights of a run anew, over another part of it, without training again.

examples:
  sparring fit diffusion --on digits --trainer.ema_snapshots 32 --out runs/base
  sparring ema runs/base --std 0.1 --out short
  sparring evaluate short --reference digits
"""

import argparse
from pathlib import Path

from sparring.cli.terminal import path, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path, metavar="RUN", help="run with snapshots of its averages")
    parser.add_argument(
        "--std", type=float, required=True, help="width of the average, as a share of the run: 0.01 to 0.28"
    )
    parser.add_argument("--out", type=path, required=True, help="the new folder, to sample and evaluate")
    parser.add_argument("--allow", nargs="+", default=[], help="further packages whose classes the run may name")


def run(options: argparse.Namespace) -> int:
    quiet()
    from sparring.recipes import recipe
    from sparring.training.power_ema import reconstruct
    from sparring.training.state import copy_into, load_frozen

    run, out = Path(options.run), Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out={out}` is there already: give another folder")
    tensors = reconstruct(run / "ema", options.std)
    trainer = recipe.rebuild(run, [], options.allow)
    load_frozen(trainer.method, trainer.folder.load_frozen())
    own = trainer.ema.module.state_dict()
    copy_into({name: tensor for name, tensor in own.items() if name in tensors}, tensors)
    if not trainer.ema.module.save(out, trainer.method.sampler):
        raise ValueError(f"the network of {run} cannot be made again from its class and arguments")
    print(f"{out}: {run} averaged with a width of {options.std:g} of the run")
    return 0
