"""Measure a run, a pipeline or a folder of images against real ones.

examples:
  sparring evaluate runs/base --steps 10
  sparring evaluate PIPELINE --reference digits --steps 20 --scheduler dpm --n 1000 --json
  sparring evaluate images/ --reference test.parquet --train train.parquet --pad 2
"""

import argparse
import json
from pathlib import Path

from sparring.cli.sampling import add_sampling, add_source, check_sampling
from sparring.cli.terminal import place, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "RUN|PIPELINE|FOLDER")
    add_sampling(parser, n=1000)
    parser.add_argument(
        "--reference", type=place, metavar="DATA", help="real images (default: the holdout of the run's data)"
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
        help="imagenet, classifier, self-supervised, pixels, points, inception, a file of `sparring encoder` or of a "
        "ResNet (.th), a DINOv2 folder (default: points for points, imagenet for colour images if the extra `imagenet` "
        "is installed, else classifier, or self-supervised without labels)",
    )
    parser.add_argument(
        "--features_seed", type=int, help="seed of the network behind classifier and self-supervised (default: its own)"
    )
    for name in ("size", "pad", "limit"):
        parser.add_argument(f"--{name}", type=int, help=f"`{name}` of the data sets given with --reference and --train")
    parser.add_argument("--text_column", help="captions of the data sets, which a text-to-image pipeline is given")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    check_sampling(options)
    source = Path(options.source)
    if not source.exists():
        raise ValueError(f"{source} does not exist: give a run, a pipeline folder or a folder of images")
    quiet()
    from sparring.evaluation import Evaluator, RealImages
    from sparring.generators import holds_generator
    from sparring.report import write_run_report
    from sparring.runs import is_run
    from sparring.runs.results import keep_result
    from sparring.samplers import Sampler

    names = ("size", "pad", "limit", "text_column")
    shape = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    real = RealImages.of(options.reference, options.train, source, **shape)
    evaluator = Evaluator(real, options.features, options.features_seed)
    if is_run(source) or holds_generator(source):
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
        print(json.dumps(result.to_json()))
    else:
        from sparring.cli.tables import print_result

        print_result(str(source), result)
    return 0
