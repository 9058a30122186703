"""The command line, `sparring recipes | fit | encoder | sample | evaluate | compare | demo`; imports nothing heavy."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from sparring.recipes import recipe

DESCRIPTION = """\
Train, tune and distil diffusion models with a discriminator in the loop.

  sparring recipes                                      what ships, one line each
  sparring fit diffusion-digits --out runs/base         train a denoiser
  sparring fit adt-digits --init runs/base              tune it against a discriminator
  sparring sample runs/adt-digits --n 64 --out grid.png look at it
  sparring evaluate runs/adt-digits --steps 10          measure it
  sparring compare runs/*                               one table, one page
  sparring demo                                         all of this on real digits, in minutes
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for a user's mistake, 128 + signal when stopped."""
    try:
        options, rest = parser().parse_known_args(arguments)
        if rest and options.command is not fit:
            raise ValueError(f"unknown argument {rest[0]}: see `sparring {options.name} --help`")
        options.rest = rest
        return options.command(options)
    except ValueError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("sparring: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def fail(error: Exception) -> int:
    """One line on stderr for a user's mistake."""
    if type(error) is not ValueError:  # a ValueError of a library is a user's mistake only where we say so
        print(f"sparring: error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        print(f"sparring: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """Options of every command but the settings of a recipe."""
    main_parser = argparse.ArgumentParser(
        prog="sparring",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = main_parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="name")

    def command(function: Any, help_text: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            function.__name__,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=function)
        return sub

    command(recipes, "list the recipes that ship with the package")

    sub = command(
        fit,
        "train, tune or distil a denoiser by a recipe",
        "Every setting of the recipe is a flag: --trainer.steps 500, --trainer.batch_size 64, --trainer.seed 1,\n"
        "--trainer.checkpoint_every 100, --method.structure_weight 0.5, --data.path FILE.\n"
        "`sparring fit RECIPE --dry_run` prints the recipe with all its values, `--settings` says what they mean,\n"
        "`--settings --method.help ADT` what those of a class mean.\n\n"
        "examples:\n"
        "  sparring fit diffusion-digits --out runs/base --trainer.steps 2000\n"
        "  sparring fit sadm-digits --init runs/base --out runs/sadm --trainer.seed 1\n"
        "  sparring fit sadm-digits --out runs/sadm --resume\n"
        "  sparring fit diffusion-32 --data fashion.parquet --data.pad 2 --out runs/fashion\n"
        "  accelerate launch -m sparring fit sadm-digits --init runs/base",
    )
    sub.add_argument("recipe", metavar="RECIPE", help="name of a recipe (`sparring recipes`) or a YAML file")
    sub.add_argument("--out", type=Path, help="run folder, must be new (default: runs/RECIPE)")
    sub.add_argument("--init", metavar="RUN|PIPELINE", help="start from the denoiser of a run or a pipeline folder")
    sub.add_argument("--data", metavar="DATA", help="images: digits, a folder, a parquet file, hub:OWNER/NAME")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out from its newest checkpoint")
    sub.add_argument(
        "--resume_step", type=int, metavar="STEP", help="go on from this checkpoint; later ones are dropped"
    )
    sub.add_argument("--allow", action="append", default=[], metavar="MODULE", help="let the recipe name its classes")
    sub.add_argument("--settings", action="store_true", help="show every setting of the recipe and stop")
    sub.add_argument("--dry_run", action="store_true", help="print the resolved recipe and stop")
    sub.add_argument("--json", action="store_true", help="print the run's row of `compare` when done")

    sub = command(
        encoder,
        "train a small encoder on images, for judges and as features to measure in",
        "examples:\n  sparring encoder digits --out encoder.safetensors\n"
        "  sparring encoder train.parquet --size 16 --kind classifier --out classes.safetensors\n"
        "  sparring evaluate runs/base --features encoder.safetensors",
    )
    sub.add_argument("data", metavar="DATA", help="images: digits, a folder, a parquet file, hub:OWNER/NAME")
    sub.add_argument("--out", type=Path, required=True, help="the new file (.safetensors)")
    sub.add_argument(
        "--kind",
        choices=["self-supervised", "classifier"],
        default="self-supervised",
        help="without or with labels (default: without)",
    )
    sub.add_argument(
        "--widths", type=int, nargs="+", default=[32, 64, 64], help="channels of its stages (default: 32 64 64)"
    )
    sub.add_argument("--epochs", type=int, help="passes over the images (default: by their number)")
    sub.add_argument("--seed", type=int, default=0, help="seed of weights, order and views (default: 0)")
    for name in ("size", "pad", "limit"):
        sub.add_argument(f"--{name}", type=int, help=f"`{name}` of the images")

    sub = command(
        sample,
        "sample images from a run or a diffusers pipeline",
        "examples:\n  sparring sample runs/base --n 64 --steps 10 --scheduler dpm --out grid.png\n"
        "  sparring sample runs/base --n 1000 --out images/\n"
        '  sparring sample PIPELINE --prompt "a red apple" --guidance 5 --n 8 --out grid.png',
    )
    add_sampling(sub, n=64)
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help=".png: a grid; .gif: the denoising path; else a new folder of PNG",
    )
    sub.add_argument("--labels", type=int, nargs="+", metavar="CLASS", help="classes of a conditional network")
    sub.add_argument("--prompt", nargs="+", metavar="TEXT", help="captions for a text-to-image pipeline, used in turn")
    sub.add_argument("--size", type=int, help="width and height of the images of a text-to-image pipeline")
    sub.add_argument("--scale", type=int, default=0, help="enlarge each pixel (default: to a grid of about 512)")

    sub = command(
        evaluate,
        "measure a run, a pipeline or a folder of images against real ones",
        "examples:\n  sparring evaluate runs/base --steps 10\n"
        "  sparring evaluate PIPELINE --reference digits --steps 20 --scheduler dpm --n 1000 --json\n"
        "  sparring evaluate images/ --reference test.parquet --train train.parquet --pad 2",
    )
    add_sampling(sub, n=1000)
    sub.add_argument("--reference", metavar="DATA", help="real images (default: the holdout of the run's data)")
    sub.add_argument(
        "--train", metavar="DATA", help="images trained on: for the floor, the classifier and memorisation"
    )
    sub.add_argument(
        "--features",
        help="classifier, self-supervised, pixels, inception, a file of `sparring encoder` or of a ResNet (.th), a "
        "DINOv2 folder (default: classifier, or self-supervised where there are no labels)",
    )
    for name, kind in (("size", int), ("pad", int), ("limit", int)):
        sub.add_argument(f"--{name}", type=kind, help=f"`{name}` of the data sets given with --reference and --train")
    sub.add_argument("--text_column", help="captions of the data sets, which a text-to-image pipeline is given")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")

    example = "example:\n  sparring compare runs/demo/* --out report.html"
    sub = command(compare, "compare runs: one table, one page", example)
    sub.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; NAME-s0, NAME-s1 … are seeds of one arm"
    )
    sub.add_argument("--out", type=Path, help="also write the page, an HTML file")
    sub.add_argument(
        "--budget",
        choices=["calls", "seconds"],
        help="judge against plain runs that spent at least as much on training (default: against all plain runs)",
    )
    sub.add_argument("--json", action="store_true", help="print the rows as JSON")

    sub = command(demo, "train a baseline on real digits, tune it by every method, and say what helped")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs (default: runs/demo)")
    sub.add_argument("--quick", action="store_true", help="two minutes instead of eight, with rougher numbers")
    sub.add_argument("--seed", type=int, default=0, help="seed of every arm")
    return main_parser


def add_sampling(sub: argparse.ArgumentParser, n: int) -> None:
    sub.add_argument("source", metavar="RUN|PIPELINE" + ("|FOLDER" if n > 100 else ""), help="what to sample")
    sub.add_argument("--n", type=int, default=n, help=f"number of images (default: {n})")
    sub.add_argument("--steps", type=int, default=10, help="sampler steps (default: 10)")
    sub.add_argument("--scheduler", help="ddim, dpm, unipc, euler, heun, ddpm, lcm (default: the pipeline's own)")
    sub.add_argument("--seed", type=int, default=0, help="seed of the latents (default: 0)")
    sub.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance (default: 1, none)")
    sub.add_argument("--batch_size", type=int, help="images at once (default: 256, or fewer of large ones)")


def check_sampling(options: argparse.Namespace) -> None:
    for name in ("n", "steps", "batch_size"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")


def recipes(options: argparse.Namespace) -> int:
    shipped = recipe.shipped()
    width = max(map(len, shipped))
    for name, line in shipped.items():
        print(f"{name:{width}}  {line}")
    return 0


def fit(options: argparse.Namespace) -> int:
    flags = options.rest
    if options.resume or options.resume_step is not None:
        return resume(options)
    settings = recipe.read(options.recipe)
    started_from = settings.pop("init", None)  # in the configuration of a run that tuned
    init = options.init or started_from
    recipe.check_classes(settings, options.allow)
    if options.settings:
        recipe.parser(recipe.tunes(settings, init)).print_help()
        return 0
    quiet()
    if options.data is not None:
        settings["data"] = recipe.data_section(options.data, settings)
    out = options.out or Path("runs") / Path(options.recipe).stem
    header = {"recipe": options.recipe, "init": init, "allow": options.allow}
    trainer = recipe.build(settings, flags, out=out, init=init, header=header)
    return show(trainer) if options.dry_run else train(trainer, options)


def resume(options: argparse.Namespace) -> int:
    out = options.out or Path("runs") / Path(options.recipe).stem
    if not (out / "config.yaml").is_file():
        raise ValueError(f"nothing to resume: {out} is not a run of sparring (give it with --out)")
    quiet()
    config = recipe.read_config(out)
    if options.settings:
        recipe.parser(tunes=config.get("init") is not None).print_help()
        return 0
    recipe.check_same(config, data=options.data, init=options.init)
    trainer = recipe.rebuild(out, options.rest, options.allow)
    return show(trainer) if options.dry_run else train(trainer, options)


def show(trainer: Any) -> int:
    """Prints the resolved recipe."""
    import yaml

    print(yaml.safe_dump(trainer.config, sort_keys=False))
    return 0


def train(trainer: Any, options: argparse.Namespace) -> int:
    from sparring.training import Interrupted

    try:
        run = trainer.fit(resume=options.resume, resume_step=options.resume_step)
    except Interrupted as stopped:
        print(f"sparring: {stopped}", file=sys.stderr)
        return stopped.exit_code
    if trainer.accelerator.is_main_process:
        from sparring.report import write_run_report

        page = write_run_report(run)
        if options.json:
            from sparring.runs import row

            print(json.dumps(row(run)))
        else:
            print(f"run: {run}\npage: {page}\nnext: sparring evaluate {run} --steps 10")
    return 0


def encoder(options: argparse.Namespace) -> int:
    if min(options.widths) < 1 or (options.epochs is not None and options.epochs < 1):
        raise ValueError(f"`widths={options.widths}` and `epochs={options.epochs}` must be at least 1")
    quiet()
    from sparring.data import from_spec
    from sparring.training.encoder import train_encoder

    data = from_spec(options.data, size=options.size, pad=options.pad, limit=options.limit)
    made = train_encoder(
        data, options.out, kind=options.kind, widths=tuple(options.widths), epochs=options.epochs, seed=options.seed
    )
    print(f"{made.path}: {options.kind}, {made.images} images, {made.seconds:.0f} s")
    what = (
        "images classified rightly" if options.kind == "classifier" else "views next to the other view of their image"
    )
    print(f"held-out {what}: {made.accuracy:.1%}")
    if made.neighbours is not None:
        print(f"labels from 5 nearest neighbours: {made.neighbours:.1%} (untrained: {made.neighbours_untrained:.1%})")
    return 0


def check_out(out: Path) -> None:
    """Refuses, before anything is sampled, a place that cannot take the images."""
    file = out.suffix.lower() in (".png", ".gif")
    if file and out.is_dir():
        raise ValueError(f"`out={out}` is a folder: give the name of a file")
    if not file and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out={out}` already holds files: give a new folder, or a name that ends in .png")
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK) or not (place.is_dir() or place == out):
        raise ValueError(f"`out={out}` cannot be written: give another place")


def sample(options: argparse.Namespace) -> int:
    check_sampling(options)
    check_out(options.out)
    quiet()
    from sparring.samplers import Sampler, save_animation, save_images

    sampler = Sampler(options.source, size=options.size)
    animated = options.out.suffix.lower() == ".gif"
    states: list[Any] = []
    samples = sampler(
        options.n,
        options.steps,
        scheduler=options.scheduler,
        seed=options.seed,
        labels=options.labels,
        prompts=options.prompt,
        guidance=options.guidance,
        batch_size=options.n if animated else options.batch_size,
        watch=(lambda state: states.append(state.cpu())) if animated else None,
    )
    columns = max(1, round(options.n**0.5)) * samples.images.shape[-1]
    scale = options.scale or max(1, 512 // columns)
    shown: Any = states if animated else samples.images
    written = (save_animation if animated else save_images)(shown, options.out, scale=scale)
    print(f"{written} ({samples.scheduler}, {samples.nfe} network calls, {options.n / samples.seconds:.0f} images/s)")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    check_sampling(options)
    source = Path(options.source)
    if not source.exists():
        raise ValueError(f"{source} does not exist: give a run, a pipeline folder or a folder of images")
    quiet()
    from sparring.evaluation import Evaluator, RealImages
    from sparring.report import write_run_report
    from sparring.runs import is_run
    from sparring.runs.results import keep_result
    from sparring.samplers import Sampler

    names = ("size", "pad", "limit", "text_column")
    shape = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    real = RealImages.of(options.reference, options.train, source, **shape)
    evaluator = Evaluator(real, options.features)
    if is_run(source) or (source / "model_index.json").is_file():
        result = evaluator.sampler(
            Sampler(source),
            n=options.n,
            steps=options.steps,
            scheduler=options.scheduler,
            seed=options.seed,
            guidance=options.guidance,
            batch_size=options.batch_size,
            pictures=source if is_run(source) else None,
        )
        if is_run(source):
            keep_result(source, result)
            write_run_report(source)
    else:
        result = evaluator.folder(source, **{k: v for k, v in shape.items() if k in ("size", "pad")})
    if options.json:
        print(json.dumps(result))
    else:
        from sparring.cli.tables import print_result

        print_result(str(source), result)
    return 0


def compare(options: argparse.Namespace) -> int:
    from sparring.evaluation import verdicts
    from sparring.runs import row

    for run in options.runs:
        if not run.exists():
            raise ValueError(f"{run} does not exist: give run folders")
    if options.out is not None and options.out.is_dir():
        raise ValueError(f"`out={options.out}` is a folder: give the name of an HTML file")
    rows = [row(run) for run in options.runs if run.is_dir() or not run.suffix]
    if not rows:
        raise ValueError("no run folder given")
    found = verdicts(rows, options.budget)
    if options.out:
        from sparring.report import write_comparison

        runs = [run for run in options.runs if run.is_dir()]
        command = "sparring compare " + " ".join(map(str, runs))
        write_comparison(runs, options.out, table=rows, verdicts=found, command=command)
    if options.json:
        print(json.dumps({"runs": rows, "verdicts": found}))
        return 0
    from sparring.cli.tables import print_comparison

    print_comparison(rows, found)
    if options.out:
        print(f"page: {options.out}")
    return 0


def demo(options: argparse.Namespace) -> int:
    quiet()
    from sparring.cli.demo import run_demo
    from sparring.training import Interrupted

    try:
        return run_demo(options.out, quick=options.quick, seed=options.seed)
    except Interrupted as stopped:
        print("sparring: stopped; the same command goes on from here", file=sys.stderr)
        return stopped.exit_code


def quiet() -> None:
    """Keeps the libraries' progress bars and advice off the terminal, and says a warning in one line."""
    import logging
    import warnings

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for libraries_logging in (diffusers_logging, transformers_logging):
        libraries_logging.set_verbosity_error()
        libraries_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
