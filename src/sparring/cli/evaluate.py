"""Measure runs, pipelines or folders of images against real ones.

Several sources, --steps, --scheduler, --guidance and --seeds are measured in all combinations, against real images that
are read once; --sweep takes many steps, solvers and weights of guidance. Results of a run are kept in it, those of a
pipeline beside it or in --out; `sparring compare` reads both. --with adds systems to the sampler as in `sample`.

examples:
  sparring evaluate runs/base --steps 10
  sparring evaluate runs/base runs/adt-s0 runs/adt-s1 --steps 5 10 --scheduler ddim dpm unipc
  sparring evaluate runs/base --sweep
  sparring evaluate PIPELINE --reference runs/base --steps 20 --n 1000 --json
  sparring evaluate images/ --reference test.parquet --train train.parquet --pad 2
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.cli.sampling import (
    Progress,
    add_push_to_hub,
    add_reading,
    add_sampling,
    check_by_itself,
    check_sampling,
    settings_of,
    sweep_of,
)
from sparring.cli.terminal import path, place, quiet

if TYPE_CHECKING:
    from sparring.evaluation import Evaluator
    from sparring.runs import Result

SETTINGS = ("size", "pad", "limit", "text_column", "on_error", "follow_links")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=path, metavar="RUN|PIPELINE|FOLDER", help="what to measure")
    add_sampling(parser)
    parser.add_argument(
        "--seeds", "--seed", type=int, nargs="+", default=[0], metavar="SEED", help="seeds of the latents (default: 0)"
    )
    parser.add_argument(
        "--reference",
        type=place,
        metavar="DATA|RUN",
        help="real images, or the run whose held-out images these are (default: those of the run that is measured)",
    )
    parser.add_argument(
        "--train",
        type=place,
        metavar="DATA",
        help="images trained on: for the floor, the classifier and memorisation",
    )
    parser.add_argument(
        "--features",
        type=place,
        help="imagenet, classifier, self-supervised, pixels, values, points, inception, a file of `sparring encoder` "
        "or of a ResNet (.th), a DINOv2 folder (default: points for points, values for what is no picture, imagenet "
        "for colour images if the extra `imagenet` is installed, else classifier, or self-supervised without labels)",
    )
    parser.add_argument(
        "--features_seed", type=int, help="seed of the network behind classifier and self-supervised (default: its own)"
    )
    for name in ("size", "pad", "limit"):
        parser.add_argument(
            f"--{name}", type=int, help=f"`{name}` of a folder of images, and of the data of --reference and --train"
        )
    parser.add_argument("--text_column", help="captions of the data sets, which a text-to-image pipeline is given")
    add_reading(parser)
    parser.add_argument("--out", type=path, help="folder for the results of a pipeline (default: the pipeline's own)")
    add_push_to_hub(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON; a list if there are several")


def run(options: argparse.Namespace) -> int:
    check_sampling(options)
    options.n = options.n or 1000
    for source in options.sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist: give a run, a pipeline folder or a folder of images")
        check_by_itself(source)
    if options.out is not None and len(options.sources) > 1:
        raise ValueError(f"`out={options.out}` takes the results of one pipeline: measure each by itself")
    quiet()
    from sparring.evaluation.real import check_used
    from sparring.generators import holds_generator
    from sparring.runs import is_run

    if options.push_to_hub is not None:
        from sparring.report.hub import check_hub, push_to_hub

        if len(options.sources) > 1 or not is_run(options.sources[0]):
            raise ValueError(f"`push_to_hub={options.push_to_hub}` takes one run: measure it by itself")
        check_hub(options.push_to_hub)
    settings = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    folders = [source for source in options.sources if not is_run(source) and not holds_generator(source)]
    if options.out is not None and folders:
        raise ValueError(f"`out={options.out}` takes the results of a pipeline, and {folders[0]} is a folder of images")
    check_used(settings, [word for word in (options.reference, options.train, *map(str, folders)) if word is not None])
    options.settings = settings_of(options)
    evaluators = Evaluators(options, settings)
    found: list[tuple[Path, Result]] = []
    each = (
        0 if options.sweep else len(options.steps) * len(options.scheduler) * len(options.guidance) * len(options.seeds)
    )
    total = len(folders) + each * (len(options.sources) - len(folders))
    with Progress(total) as progress:
        for source in options.sources:
            if source in folders:
                evaluator = evaluators.of(source, None)
                progress.next(str(source))
                found.append((source, evaluator.folder(source, **settings)))
            else:
                found += [(source, result) for result in measure(source, options, evaluators, progress)]
    if options.json:
        several = [result.to_json() | {"source": str(source)} for source, result in found]
        print(json.dumps(several if len(found) > 1 else found[0][1].to_json()))
    else:
        from sparring.cli.tables import print_result, print_results

        if len(found) == 1:
            print_result(str(found[0][0]), found[0][1])
        else:
            print_results(found)
        for source in options.sources:
            if is_run(source) and (page := source / "report.html").is_file():
                print(f"page: {page}")
    if options.push_to_hub is not None:
        print(f"on the hub: {push_to_hub(options.sources[0], options.push_to_hub)}", file=sys.stderr)
    return 0


def measure(
    source: Path, options: argparse.Namespace, evaluators: "Evaluators", progress: "Progress"
) -> "list[Result]":
    """The results of one run or pipeline at every setting, which are kept in it or in --out."""
    from sparring.data.waiting import counted
    from sparring.report import write_run_report
    from sparring.runs import is_run
    from sparring.runs.results import keep_result, measures_of
    from sparring.samplers import Sampler

    sampler = Sampler(source, allow=options.allow)
    evaluator = evaluators.of(source, sampler.shape[0])
    place = options.out or source
    kept = options.out is not None or os.access(source, os.W_OK)
    if not kept:
        print(f"warning: {source} cannot be written: give --out FOLDER to keep the results", file=sys.stderr)
    place.mkdir(parents=True, exist_ok=True)
    results = []
    combinations = sweep_of(source, options, sampler.generator, options.seeds, options.settings["using"])
    progress.total += len(combinations) if options.sweep else 0  # else they are counted
    for scheduler, steps, guidance, seed in combinations:
        words = f", guidance {guidance:g}" if guidance != 1 else ""
        progress.next(f"{source}, {scheduler or 'own scheduler'}, {counted(steps, 'step')}{words}, seed {seed}")
        result = evaluator.sampler(
            sampler,
            n=options.n,
            steps=steps,
            scheduler=scheduler,
            seed=seed,
            guidance=guidance,
            pictures=place if kept and (is_run(source) or options.out is not None) else None,
            watch=progress.show,
            **options.settings,
        )
        if is_run(source):
            result = replace(result, measures=(measures_of(source) or {}) | (result.measures or {}) or None)
        if kept:
            keep_result(place, result)
        results.append(result)
    if kept and place == source and is_run(source):
        write_run_report(source)
    return results


class Evaluators:
    """Evaluators by what they read, so that sources with the same real images share one."""

    def __init__(self, options: argparse.Namespace, settings: dict[str, Any]):
        self.options, self.settings = options, settings
        self.made: dict[str, Evaluator] = {}

    def of(self, source: Path, channels: int | None) -> "Evaluator":
        """The evaluator for a source with images of so many channels."""
        from sparring.evaluation import Evaluator, RealImages
        from sparring.runs import RunFolder, is_run

        options = self.options
        by_run = is_run(source) and (options.reference is None or options.train is None)
        key = repr((RunFolder(source).read_config().get("data") if by_run else None, channels))
        if key not in self.made:
            real = RealImages.of(options.reference, options.train, source, channels, options.allow, **self.settings)
            if real.train is not None and real.train.fingerprint() == real.reference.fingerprint():
                told = "the real images are those that were trained on, so that copies score best: name others"
                print(f"warning: {told} with --reference", file=sys.stderr)
            self.made[key] = Evaluator(real, options.features, options.features_seed)
        return self.made[key]
