"""Sample images from a run or a diffusers pipeline.

--with NAME adds a system to the sampler, --with.SETTING VALUE sets what belongs to the name before it; several can be
added. `sparring systems sampling` lists them, --with NAME --with.help says what the settings mean.

examples:
  sparring sample runs/base --n 64 --steps 10 --scheduler dpm --out grid.png
  sparring sample runs/base --n 1000 --out images/
  sparring sample runs/base --seed 3 14 15 --out three.png
  sparring sample runs/base --sweep --out sheet.png
  sparring sample runs/base --training --out training.gif
  sparring sample PIPELINE --prompt "a red apple" --guidance 5 --n 8 --out grid.png
  sparring sample runs/base --guidance 3 --guidance_interval 0.2 2 --out grid.png
  sparring sample runs/base --with autoguidance --with.weak runs/early --with.weight 2 --out grid.png
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.cli.sampling import (
    SWEEP,
    Progress,
    add_sampling,
    check_by_itself,
    check_sampling,
    settings_of,
    shown_settings,
    sweep_of,
)
from sparring.cli.terminal import check_there, path, place, quiet

if TYPE_CHECKING:
    from sparring.samplers import Sampler, SampleStream
    from sparring.training.tracking import Tracking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=place, metavar="RUN|PIPELINE", help="what to sample")
    add_sampling(parser)
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="seed of the latents, or one for each image (default: 0)"
    )
    parser.add_argument(
        "--out",
        type=path,
        default=Path("samples.png"),
        help=".png, .jpg: a grid; .gif: the denoising path; .npz: arrays; else a new folder of PNG",
    )
    parser.add_argument(
        "--training", action="store_true", help="as the .gif, show the run's samples over its training instead"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="CLASS", help="classes of a conditional network: numbers, or names of a run's"
    )
    parser.add_argument(
        "--prompt", nargs="+", metavar="TEXT", help="captions for a text-to-image pipeline, used in turn"
    )
    parser.add_argument("--size", type=int, help="width and height of the images of a text-to-image pipeline")
    parser.add_argument(
        "--tracker",
        metavar="NAME",
        help="also log the picture and how it was made to tensorboard (beside --out), wandb, trackio …",
    )
    parser.add_argument("--scale", type=int, default=0, help="enlarge each pixel (default: to a grid of about 512)")


GRID, SHEET = 64, 8  # images of a grid, and of a cell of a contact sheet
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
    check_sampling(options)
    check_there(options.source)
    check_by_itself(options.source)
    check_out(options.out)
    if options.training and options.tracker is not None:
        raise ValueError(f"`tracker={options.tracker}`: with --training there is nothing new to log; leave it out")
    if options.training:
        return animate_training(Path(options.source), options.out)
    several = next((name for name in SWEEP if len(getattr(options, name)) > 1), None)
    if several is not None and not options.sweep:
        words = " ".join(map(str, getattr(options, several)))
        raise ValueError(f"`{several}={words}`: give one, or --sweep for a contact sheet of them all")
    if options.sweep and options.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"`out={options.out}`: a contact sheet is a .png or .jpg")
    own_seeds = len(options.seed) > 1
    options.n = options.n or (len(options.seed) if own_seeds else SHEET if options.sweep else GRID)
    options.labels = class_numbers(options.labels, Path(options.source))
    quiet()
    from sparring.samplers import Sampler

    sampler = Sampler(options.source, size=options.size, allow=options.allow)
    settings = settings_of(options) | {"labels": options.labels, "prompts": options.prompt}
    if sampler.generator.takes_source:
        settings["sources"] = sources_of_run(Path(options.source), options)
    settings["seed"] = options.seed if own_seeds else options.seed[0]
    about = {"source": str(options.source), "made_with": f"sparring {version('sparring')}", "seed": settings["seed"]}
    with tracking(options, about) as record:
        return (sheet if options.sweep else grid)(sampler, options, settings, about, record)


@contextmanager
def tracking(options: argparse.Namespace, about: dict[str, Any]) -> Iterator["Tracking | None"]:
    """The record of a tracker, opened before anything is drawn and closed in the end; None without `--tracker`."""
    if options.tracker is None:
        yield None
        return
    from sparring.training.tracking import Tracking, accelerator_with

    folder = options.out.absolute().parent
    record = Tracking(accelerator_with(options.tracker, folder), folder, Path(options.source).absolute().name)
    said = {name: value for name, value in vars(options).items() if name not in ("command", "given", "rest", "name")}
    record.start(said | about | {"with": " ".join(options.rest)})
    try:
        yield record
    finally:
        record.finish()


def grid(
    sampler: "Sampler",
    options: argparse.Namespace,
    settings: dict[str, Any],
    about: dict[str, Any],
    record: "Tracking | None",
) -> int:
    """Writes images, or the path to them, in one form or another; a tracker gets a grid of them."""
    from sparring.data.waiting import counted
    from sparring.runs.pictures import POINTS, image_grid
    from sparring.samplers import save_animation, save_images

    states: list[Any] = []
    animated = options.out.suffix.lower() == ".gif"
    if animated:
        settings |= {"batch_size": options.n, "watch": lambda state: states.append(state.cpu())}
    ((scheduler, steps, guidance, _),) = sweep_of(options.source, options, sampler.generator, [0], settings["using"])
    with Progress(1) as progress:
        settings["progress"] = progress.show
        stream = sampler.stream(options.n, steps, scheduler=scheduler, guidance=guidance, **settings)
        progress.next(f"sampling {counted(options.n, 'image')}")
        images = drawn(stream)
    columns = max(1, round(options.n**0.5)) * images.shape[-1]
    scale = options.scale or max(1, 512 // columns)
    real = real_points(Path(options.source), options.n, options.allow) if sampler.shape == POINTS else None
    if animated:
        written = save_animation(states, options.out, scale=scale, real=real)
    else:
        about |= {"scheduler": stream.name, "steps": steps, "nfe": stream.nfe}
        each = {"label": sampler.generator.classes_drawn(stream.sampling), "prompt": options.prompt}
        each |= {"seed": options.seed} if len(options.seed) > 1 else {}
        in_turn = {key: [of[i % len(of)] for i in range(options.n)] for key, of in each.items() if of}
        written = save_images(images, options.out, scale=scale, real=real, about=about, each=in_turn)
    if record is not None:
        record.picture(image_grid(images[:GRID], scale=scale, real=real), 0, options.out.name)
        record.log({"nfe": stream.nfe, "calls": stream.calls, "images_per_second": options.n / stream.seconds}, 0)
    more = "" if round(stream.calls, 3) == stream.nfe else f" ({stream.calls:.3g} with what was added)"
    speed = options.n / stream.seconds
    print(f"{written} ({stream.name}, {counted(stream.nfe, 'network call')}{more}, {speed:.0f} images/s)")
    return 0


def sheet(
    sampler: "Sampler",
    options: argparse.Namespace,
    settings: dict[str, Any],
    about: dict[str, Any],
    record: "Tracking | None",
) -> int:
    """Writes a contact sheet: a column for each number of steps, a row for each scheduler and guidance."""
    from sparring.data.waiting import counted
    from sparring.runs.pictures import POINTS, contact_sheet, image_grid
    from sparring.samplers import save_picture

    cells: dict[tuple[str, str], Any] = {}
    real = real_points(Path(options.source), options.n, options.allow) if sampler.shape == POINTS else None
    described = []
    samplers = sweep_of(options.source, options, sampler.generator, [0], settings["using"])
    with Progress(len(samplers)) as progress:
        settings["progress"] = progress.show
        for scheduler, steps, guidance, _ in samplers:
            stream = sampler.stream(options.n, steps, scheduler=scheduler, guidance=guidance, **settings)
            progress.next(f"{stream.name}, {counted(steps, 'step')}")
            images = drawn(stream)
            columns = full_rows(options.n)
            scale = options.scale or max(1, 256 // columns // images.shape[-1])
            row = stream.name if stream.nfe == steps else f"{stream.name}, two calls a step"
            cells[row, counted(steps, "step")] = image_grid(images, columns, scale, real)
            described.append({"scheduler": stream.name, "steps": steps, "nfe": stream.nfe, "calls": stream.calls})
    picture = contact_sheet(cells)
    save_picture(picture, options.out, about | {"cells": described})
    if record is not None:
        record.picture(picture, 0, options.out.name)
    each = f"{counted(options.n, 'image')}{' each' if len(cells) > 1 else ''} from the same latents"
    print(f"a contact sheet of {counted(len(cells), 'sampler')}, {each}, as {options.out}")
    return 0


def full_rows(n: int) -> int:
    """Columns for n pictures, about twice as many as rows, and so that the last row is full if that is near."""
    near = max(1, round((2 * n) ** 0.5))
    return next((columns for columns in (near, near + 1, near - 1) if columns and n % columns == 0), near)


def class_numbers(words: list[str] | None, source: Path) -> list[int] | None:
    """The classes that `--labels` names, by numbers or by the names that the data of a run has.

    Raises:
        ValueError: a name that is unknown.
    """
    from sparring.runs import RunFolder, is_run

    if words is None or all(word.isdecimal() for word in words):
        return None if words is None else [int(word) for word in words]
    made_with = RunFolder(source).read_config().get("made_with") if is_run(source) else None
    names = (made_with or {}).get("class_names") or []
    for word in words:
        if word not in names and not word.isdecimal():
            known = f"the classes of {source} are {', '.join(names)}" if names else f"{source} has no names of classes"
            raise ValueError(f"`labels={word}`: {known}; numbers from 0 on go too")
    return [names.index(word) if word in names else int(word) for word in words]


def drawn(stream: "SampleStream") -> Any:
    """All images of a stream [n, C, H, W]."""
    import torch

    return torch.cat(list(stream))


def animate_training(run: Path, out: Path) -> int:
    """Writes the pictures that a run made of its samples, one after the other."""
    from sparring.runs import is_run
    from sparring.runs.pictures import save_gif, training_frames

    animated = out.suffix.lower() == ".gif"
    if not animated or not is_run(run):
        raise ValueError(f"`--training` makes a .gif of a run: {out if not animated else run} is none")
    frames = training_frames(run / "samples")
    save_gif(frames, out)
    print(f"the samples of {len(frames)} steps of {run} as {out}")
    return 0


def sources_of_run(source: Path, options: argparse.Namespace) -> Any:
    """The images that a run's samples are conditioned on: sources of its held-out images, or of those trained on."""
    from sparring.evaluation.pairs import sources_of
    from sparring.evaluation.real import data_of_run
    from sparring.runs import is_run

    if not is_run(source):
        raise ValueError(f"{source} is conditioned on source images, and only a run knows some: give its run")
    data = data_of_run(source, options.allow)
    return sources_of(data.holdout() or data, options.n)


def real_points(source: Path, n: int, allow: list[str]) -> Any:
    """Points of the data that a run was trained on, to draw its own over; None if they are not there."""
    from sparring.evaluation.real import data_of_run
    from sparring.runs import is_run

    try:
        return data_of_run(source, allow).images(n) if is_run(source) else None
    except ValueError:
        return None
