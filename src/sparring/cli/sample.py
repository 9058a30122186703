"""Sample images from a run or a diffusers pipeline.

--with NAME adds a system to the sampler, --with.SETTING VALUE sets what belongs to the name before it; several can be
added. `sparring systems sampling` lists them, --with NAME --with.help says what the settings mean.

examples:
  sparring sample runs/base --n 64 --steps 10 --scheduler dpm --out grid.png
  sparring sample runs/base --n 1000 --out images/
  sparring sample runs/base --training --out training.gif
  sparring sample PIPELINE --prompt "a red apple" --guidance 5 --n 8 --out grid.png
  sparring sample runs/base --guidance 3 --guidance_interval 0.2 2 --out grid.png
  sparring sample runs/base --with autoguidance --with.weak runs/early --with.weight 2 --out grid.png
"""

import argparse
import os
from pathlib import Path
from typing import Any

from sparring.cli.sampling import add_sampling, check_sampling, settings_of, shown_settings
from sparring.cli.terminal import path, place, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=place, metavar="RUN|PIPELINE", help="what to sample")
    add_sampling(parser, n=64)
    parser.add_argument("--steps", type=int, default=10, help="sampler steps (default: 10)")
    parser.add_argument("--scheduler", help="ddim, dpm, unipc, euler, heun, ddpm, lcm (default: the pipeline's own)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents (default: 0)")
    parser.add_argument(
        "--out",
        type=path,
        default=Path("samples.png"),
        help=".png, .jpg: a grid; .gif: the denoising path; .npz: arrays; else a new folder of PNG",
    )
    parser.add_argument(
        "--training", action="store_true", help="as the .gif, show the run's samples over its training instead"
    )
    parser.add_argument("--labels", type=int, nargs="+", metavar="CLASS", help="classes of a conditional network")
    parser.add_argument(
        "--prompt", nargs="+", metavar="TEXT", help="captions for a text-to-image pipeline, used in turn"
    )
    parser.add_argument("--size", type=int, help="width and height of the images of a text-to-image pipeline")
    parser.add_argument("--scale", type=int, default=0, help="enlarge each pixel (default: to a grid of about 512)")


ENDINGS = (".png", ".jpg", ".jpeg", ".npz", ".gif")


def check_out(out: Path) -> None:
    """Refuses, before anything is sampled, a place that cannot take the images."""
    from PIL import Image

    file = out.suffix.lower() in ENDINGS
    if not file and out.suffix.lower() in Image.registered_extensions():
        raise ValueError(
            f"`out={out}`: the ending is one of {', '.join(ENDINGS)}; anything else is a folder of PNG files"
        )
    if file and out.is_dir():
        raise ValueError(f"`out={out}` is a folder: give the name of a file")
    if not file and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out={out}` already holds files: give a new folder, or a name that ends in .png")
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK) or not (place.is_dir() or place == out):
        raise ValueError(f"`out={out}` cannot be written: give another place")


def run(options: argparse.Namespace) -> int:
    if shown_settings(options):
        return 0
    check_sampling(options, options.steps)
    check_out(options.out)
    animated = options.out.suffix.lower() == ".gif"
    if options.training:
        return animate_training(Path(options.source), options.out, animated)
    quiet()
    from sparring.runs.pictures import POINTS
    from sparring.samplers import Sampler, save_animation, save_images

    sampler = Sampler(options.source, size=options.size, allow=options.allow)
    states: list[Any] = []
    samples = sampler(
        options.n,
        options.steps,
        scheduler=options.scheduler,
        seed=options.seed,
        labels=options.labels,
        prompts=options.prompt,
        **(settings_of(options) | ({"batch_size": options.n} if animated else {})),
        watch=(lambda state: states.append(state.cpu())) if animated else None,
    )
    columns = max(1, round(options.n**0.5)) * samples.images.shape[-1]
    scale = options.scale or max(1, 512 // columns)
    shown: Any = states if animated else samples.images
    real = real_points(Path(options.source), options.n, options.allow) if sampler.shape == POINTS else None
    written = (save_animation if animated else save_images)(shown, options.out, scale=scale, real=real)
    print(f"{written} ({samples.scheduler}, {samples.nfe} network calls, {options.n / samples.seconds:.0f} images/s)")
    return 0


def animate_training(run: Path, out: Path, animated: bool) -> int:
    """Writes the pictures that a run made of its samples, one after the other."""
    from sparring.runs import is_run
    from sparring.runs.pictures import save_gif, training_frames

    if not animated or not is_run(run):
        raise ValueError(f"`--training` makes a .gif of a run: {out if not animated else run} is none")
    frames = training_frames(run / "samples")
    save_gif(frames, out)
    print(f"the samples of {len(frames)} steps of {run} as {out}")
    return 0


def real_points(source: Path, n: int, allow: list[str]) -> Any:
    """Points of the data that a run was trained on, to draw its own over; None if they are not there."""
    from sparring.evaluation.real import data_of_run
    from sparring.runs import is_run

    try:
        return data_of_run(source, allow).images(n) if is_run(source) else None
    except ValueError:
        return None
