"""Train, tune or distil a generator by a method, on a setting.

Every setting of the recipe is a flag: --trainer.steps 500, --trainer.batch_size 64, --trainer.seed 1,
--trainer.checkpoint_every 100, --method.structure_weight 0.5, --data.path FILE.
`sparring fit METHOD --on SETTING --dry_run` prints the recipe with all its values, `--settings` says what they mean,
`--method.discriminator.help` those of one class, `--method.help DDO` those of another.

examples:
  sparring fit diffusion --on digits --out runs/base --trainer.steps 2000
  sparring fit sadm --on digits --init runs/base --out runs/sadm --trainer.seed 1
  sparring fit sadm --on digits --out runs/sadm --resume
  sparring fit adt --init PIPELINE --data photos/ --out runs/tuned
  accelerate launch -m sparring fit sadm --on digits --init runs/base
"""

import argparse
import json
import os
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from sparring.cli.sampling import add_allow, add_push_to_hub
from sparring.cli.terminal import check_there, path, place, quiet
from sparring.recipes.compose import SECTIONS, check_start, compose, read, shipped
from sparring.recipes.spelling import check_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="METHOD", help="name of a method (`sparring recipes`) or a YAML file")
    parser.add_argument(
        "--on", metavar="SETTING", help="where it runs (`sparring recipes`) or a YAML file (default: your own --data)"
    )
    parser.add_argument("--out", type=path, help="run folder, must be new (default: runs/METHOD-SETTING)")
    parser.add_argument(
        "--init", type=place, metavar="RUN|PIPELINE", help="start from the denoiser of a run or a pipeline folder"
    )
    parser.add_argument(
        "--data", type=place, metavar="DATA", help="images: digits, a folder, a parquet file, hub:OWNER/NAME"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out from its newest checkpoint")
    parser.add_argument(
        "--resume_step", type=int, metavar="STEP", help="go on from this checkpoint; later ones are dropped"
    )
    add_allow(parser)
    parser.add_argument(
        "--settings",
        action="store_true",
        help="say what each setting of the recipe means and stop (--method.help: of one class)",
    )
    add_push_to_hub(parser)
    parser.add_argument("--dry_run", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument("--json", action="store_true", help="print the run's row of `compare` when done")


def run(options: argparse.Namespace) -> int:
    check_order(options.rest)
    if options.push_to_hub is not None and not options.dry_run and os.environ.get("RANK", "0") == "0":
        from sparring.report.hub import check_hub

        check_hub(options.push_to_hub)
    parts = [Path(name).stem for name in (options.recipe, options.on) if name is not None]
    options.out = options.out or Path("runs") / "-".join(parts)
    return resume(options) if options.resume or options.resume_step is not None else start(options)


def check_order(rest: list[str]) -> None:
    """Refuses a second word beside METHOD, and a setting without its value, which METHOD takes if it lies behind."""
    if rest and not rest[0].startswith("-"):
        raise ValueError(f"unknown argument {rest[0]}: a setting is named with --on, images with --data")
    for flag, after in pairwise([*rest, "--"]):
        if flag.startswith("--") and after.startswith("--") and "=" not in flag and not flag.endswith(".help"):
            raise ValueError(f"`{flag}` has no value; METHOD comes first: sparring fit METHOD {flag} VALUE")


def own_flags(options: argparse.Namespace) -> list[str]:
    """The flags that are no settings of a recipe."""
    return [name for name in vars(options) if name not in ("name", "recipe", "command", "rest")]


def start(options: argparse.Namespace) -> int:
    settings = compose(options.recipe, options.on, tuned=options.init is not None)
    own = options.on is None and "data" not in settings
    started_from = settings.pop("init", None)  # in the configuration of a run that tuned
    init = options.init or started_from
    wanted = explained(options)
    if wanted is None:
        given = settings if options.data is None else settings | {"data": {"class_path": options.data}}
        check_start(given, options.rest, init)
        check_flags(given, options.rest, tuned=init is not None, options=own_flags(options))
        if init is not None:
            check_there(init)
    from sparring.recipes import recipe
    from sparring.runs import RunFolder, is_run

    recipe.check_classes(settings, options.allow)
    quiet()
    if options.data is not None:
        settings["data"] = recipe.data_section(options.data, settings)
    if wanted is not None:
        has_net = own or "generator" in settings or "net" in (settings.get("denoiser") or {})
        tunes = init is not None or settings.get("start") == "trained" or not has_net
        return show_settings(settings, tunes, *wanted)
    if own:
        from sparring.recipes.for_data import suited

        settings, chosen = suited(settings, options.recipe, options.rest, init)
        if chosen and os.environ.get("RANK", "0") == "0":
            print("; ".join(chosen), file=sys.stderr)
    if init is not None and is_run(Path(init)):
        plain, settings = settings, recipe.coupled(settings, RunFolder(Path(init)).read_config())
        recipe.check_classes(settings, options.allow)
        if settings is not plain and os.environ.get("RANK", "0") == "0":
            print(f"noise is dealt out as in {init}; --denoiser.coupling null deals none out", file=sys.stderr)
    header = {"recipe": options.recipe, "setting": options.on, "init": init, "allow": options.allow}
    trainer = recipe.build(settings, options.rest, out=options.out, init=init, header=header)
    if options.dry_run:
        return show(trainer)
    if trainer.main and trainer.data.holdout() is None:
        from sparring.evaluation.real import ways_to_hold_out

        if ways := ways_to_hold_out(trainer.data):
            print(
                f"all images of {trainer.data.name} are trained on; to keep some to measure against: {ways}",
                file=sys.stderr,
            )
    return train(trainer, options)


def resume(options: argparse.Namespace) -> int:
    from sparring.recipes import recipe

    out = options.out
    if not (out / "config.yaml").is_file():
        raise ValueError(f"nothing to resume: {out} is not a run of sparring (give it with --out)")
    quiet()
    config = recipe.read_config(out)
    wanted = explained(options)
    if wanted is not None:
        recipe.check_classes({name: config[name] for name in SECTIONS if name in config}, options.allow)
        return show_settings(config, config.get("init") is not None, *wanted)
    recipe.check_same(config, options.recipe, options.on, data=options.data, init=options.init)
    check_flags(config, options.rest, tuned=config.get("init") is not None, options=own_flags(options))
    trainer = recipe.rebuild(out, options.rest, options.allow)
    return show(trainer) if options.dry_run else train(trainer, options)


def explained(options: argparse.Namespace) -> tuple[str, str] | None:
    """The place and the class that the user asks about, by `--settings` or `--method.help ADT`; None: about nothing."""
    for number, flag in enumerate(options.rest):
        name, _, kind = flag.partition("=")
        if name.startswith("--") and name.endswith(".help"):
            place = ".".join(part for part in name[2:].split(".")[:-1] if part != "init_args")
            return place, kind or next(iter(options.rest[number + 1 :]), "")
    return ("", "") if options.settings else None


def show_settings(settings: dict[str, Any], tuned: bool, place: str, kind: str) -> int:
    """Prints what the settings mean."""
    from sparring.recipes.explain import explain

    print(explain(settings, tuned, place, kind))
    return 0


def show(trainer: Any) -> int:
    """Prints the resolved recipe."""
    import yaml

    print(yaml.safe_dump(trainer.config, sort_keys=False))
    return 0


def train(trainer: Any, options: argparse.Namespace) -> int:
    from sparring.training import Interrupted

    try:
        folder = trainer.fit(resume=options.resume, resume_step=options.resume_step)
    except Interrupted as stopped:
        print(f"sparring: {stopped}", file=sys.stderr)
        return stopped.exit_code
    if trainer.accelerator.is_main_process:
        from sparring.generators import holds_generator
        from sparring.report import write_run_report

        page = write_run_report(folder)
        if options.json:
            from sparring.runs import summarise

            print(json.dumps(summarise(folder).to_json()))
        else:
            print(f"run: {folder}\npage: {page}")
            if holds_generator(folder / "pipeline") and (words := next_command(trainer, folder, options.allow)):
                print(f"next: {shlex.join(words)}")
        if options.push_to_hub is not None:
            from sparring.report.hub import push_to_hub

            print(f"on the hub: {push_to_hub(folder, options.push_to_hub)}", file=sys.stderr)
    return 0


def next_command(trainer: Any, folder: Path, allow: list[str]) -> list[str]:
    """A command that works for a finished run: to measure it, or to look at it if no images are held out.

    What was trained beside a denoiser is used with it, as its recipe says. Of what cannot be sampled, none.
    """
    trusted = [word for module in allow for word in ("--allow", module)]
    recipe = str(trainer.config["recipe"])
    used = read(recipe).get("next", "") if recipe in shipped("methods") else ""
    if used:
        base = str(trainer.config["method"]["init_args"]["denoiser"])
        return [
            "sparring",
            "sample",
            base,
            *(str(folder) if word == "RUN" else word for word in used.split()),
            *trusted,
        ]
    if trainer.method.beside is not None or not trainer.method.generator.makes_images:
        return []
    words = ["--steps", str(trainer.method.sample_steps), *trusted]
    if trainer.data.holdout() is not None:
        return ["sparring", "evaluate", str(folder), *words]
    captions = trainer.data.captions(1) if trainer.method.generator.captioned else None
    return ["sparring", "sample", str(folder), *words, *(["--prompt", *captions] if captions else [])]
