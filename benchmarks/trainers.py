"""Trainers of the shipped recipes, made for timing: images in memory, random weights, nothing written."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.utils.logging import disable_progress_bar

from sparring.data import Digits, ImageData, StoredImages
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.training import Trainer

SMALL_BACKBONE = "--method.init_args.discriminator.init_args.backbone.init_args.pretrain=none"
SMALL_ENCODER = "--method.init_args.discriminator.init_args.encoder.init_args.pretrain=none"
UNTRAINED = {"sadm": [SMALL_ENCODER], "adt": [SMALL_BACKBONE], "add": [SMALL_BACKBONE]}
"""A feature network that is not trained costs the same per step."""
FROM_SCRATCH = ("diffusion", "immiscible", "tread")
GREY32 = str(Path(__file__).with_name("grey32.yaml"))


def trainer_of(
    name: str, folder: Path, data: ImageData | None = None, flags: tuple[str, ...] = (), setting: str = "digits-vp"
) -> Trainer:
    """A trainer of a method, ready for `stepper`.

    Args:
        name: of the method; all but those of `FROM_SCRATCH` start from `pipeline(folder)`, whose weights are random.
        folder: where that pipeline is kept, and the run would be.
        data: images; digits when None.
        flags: as on the command line.
        setting: where it runs.
    """
    tuned = name not in FROM_SCRATCH
    settings = {**compose(name, setting, tuned=tuned), "data": {"class_path": "sparring.data.Digits"}}
    if tuned:
        settings["denoiser"] = {"path": str(pipeline(folder))}
    fixed = ["--trainer.steps=1000000", "--trainer.tracker=null", *UNTRAINED.get(name, [])]
    if name == "ddo":
        fixed.append("--method.init_args.num_fakes=128")
    options, parsed = recipe.parse(settings, [*fixed, *flags], tuned=tuned)
    torch.manual_seed(0)
    objects = options.instantiate(parsed)
    data = data or Digits()
    trainer = Trainer(objects.method, data, out=folder / name, **objects.trainer.as_dict())
    trainer.method.prepare(data)
    for denoiser in trainer.method.generators():
        denoiser.images_seen = 0
    return trainer


def pipeline(folder: Path) -> Path:
    """A diffusers pipeline of the digits network with random weights."""
    place = folder / "pipeline"
    if not place.is_dir():
        disable_progress_bar()
        generator = trainer_of("diffusion", folder).method.generator
        generator.save(place, "ddim")
    return place


def stepper(trainer: Trainer) -> Callable[[], None]:
    """One turn of the trainer's loop without what it writes: fetch a batch, update the players, average, keep means."""
    windows = trainer.micro_batches()

    def step() -> None:
        trainer.train_step(next(windows))
        trainer.step += 1
        if trainer.skipped:
            raise RuntimeError("a step was left out: it would be timed as a whole one")
        if trainer.step % trainer.log_every == 0:
            trainer.means.line()

    return step


def random_images(n: int, size: int) -> StoredImages:
    """n grey images of noise in memory, as uint8 like any decoded set."""
    generator = torch.Generator().manual_seed(0)
    return StoredImages(torch.randint(0, 256, (n, 1, size, size), generator=generator, dtype=torch.uint8))
