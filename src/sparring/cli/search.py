"""Search the noise levels, and blocks to leave out, by which a trained model makes its best images in few steps.

The model stays as it is. The result is a file for `sparring sample RUN --with auto_diffusion --with.schedule FILE`.

examples:
  sparring search runs/base --steps 4 --out runs/base/four.json
  sparring search runs/base --steps 6 --skip 4 --out runs/base/lighter.json
  sparring search runs/base --steps 4 --random --out runs/base/random.json
"""

import argparse
from typing import Any

from sparring.cli.sampling import Progress, add_allow
from sparring.cli.terminal import check_there, path, place, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=place, metavar="RUN", help="run whose sampler is searched")
    parser.add_argument("--steps", type=int, required=True, help="steps of the sampler")
    parser.add_argument("--out", type=path, required=True, help="the new file (.json)")
    parser.add_argument("--skip", type=int, default=0, help="blocks to leave out, over all steps (default: 0)")
    parser.add_argument("--scheduler", default="euler", help="euler, dpm, ddpm (default: euler)")
    parser.add_argument("--n", type=int, default=500, help="samples by which a candidate is scored (default: 500)")
    parser.add_argument("--features", help="what distances are measured in (default: as `sparring evaluate`)")
    parser.add_argument("--grid", type=int, default=100, help="levels to choose from (default: 100)")
    parser.add_argument("--population", type=int, default=50, help="candidates of a generation (default: 50)")
    parser.add_argument("--generations", type=int, default=10, help="generations (default: 10)")
    parser.add_argument("--kept", type=int, default=10, help="parents, and those that are scored again (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search and the latents (default: 0)")
    parser.add_argument("--random", action="store_true", help="draw as many candidates at random, as a control")
    add_allow(parser)


def run(options: argparse.Namespace) -> int:
    check_there(options.source)
    if options.n < 2:
        raise ValueError(f"`n={options.n}` must be at least 2")
    quiet()
    from sparring.data.waiting import counted
    from sparring.evaluation.features import default_features, feature_network
    from sparring.evaluation.real import data_of_run
    from sparring.experiments.evolution import Evolution
    from sparring.experiments.search_steps import Scorer, search, write_schedule
    from sparring.generators import Denoiser
    from sparring.networks.skips import skippable
    from sparring.runs import is_run
    from sparring.samplers import Sampler

    if not is_run(options.source):
        raise ValueError(
            f"{options.source} is no run: the search measures against the images that a run was trained on"
        )
    sampler, data = Sampler(options.source, allow=options.allow), data_of_run(options.source, options.allow)
    denoiser = sampler.generator
    if not isinstance(denoiser, Denoiser) or denoiser.captioned or denoiser.takes_source:
        raise ValueError(f"{options.source} is no denoiser of plain or class-conditional images")
    names = ("steps", "grid", "population", "generations", "kept", "seed")
    evolution = Evolution(
        **{name: getattr(options, name) for name in names},
        blocks=tuple(skippable(denoiser.net)) if options.skip else (),
        skipped=options.skip,
        evolve=not options.random,
    )
    features = options.features or default_features(data, data)
    network = feature_network(features, data, data)
    images = data.images(min(len(data), 10_000))
    labels = {"labels": list(range(data.num_classes))} if denoiser.takes_labels and data.num_classes else {}
    common: dict[str, Any] = dict(sampler=sampler, features=network, scheduler=options.scheduler, settings=labels)
    common |= {"n": options.n, "grid": options.grid}
    scorer, again = (Scorer(real=images[half::2], seed=options.seed + half, **common) for half in (0, 1))
    with Progress(1) as progress:
        progress.next(f"searching {counted(options.steps, 'step')} of {options.source}")
        found = search(evolution, scorer, again, progress.show)
    best = found[0]
    last = Scorer(real=images, seed=options.seed + 2, **common)  # the best of several is lucky: both anew
    best["score"], uniform = last.of(best["times"], best["skips"]), last(evolution.uniform())
    about = {"scheduler": options.scheduler, "features": features, "uniform_score": uniform}
    write_schedule(options.out, best, **about)
    print(f"{options.out}: {' '.join(f'{t:g}' for t in best['times'])} of {len(evolution.scores)} candidates")
    print(f"Frechet distance in {features}: {best['score']:.4g}, of evenly spaced levels {uniform:.4g}")
    for step, skips in enumerate(best["skips"]):
        print(f"step {step + 1} leaves out {', '.join(skips) or 'nothing'}")
    return 0
