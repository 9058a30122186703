"""A training step of the commonest GANs over a bare loop of the same networks, on 16x16 images.

    python benchmarks/gan_step.py --threads 1
    python benchmarks/gan_step.py --smoke

Bare loop: the same rollouts, losses, penalties and updates of the same networks in a plain loop, from one batch that is
ready, with clipping and an average of the generator. Ours is a whole step of the trainer's loop: fetch the batches,
update both players, check that all is finite, keep statistics, average.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from adversarial_step import update, without_gradient
from timing import arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, table
from torch import Tensor
from trainers import SMALL_BACKBONE, random_images, stepper

from sparring.data import Batch, Draws, ImageData
from sparring.methods import Method
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.training import Trainer
from sparring.training.players import trained_by

METHODS = ("wgan", "r3gan", "diffusion_gan", "ddgan", "projected_gan")
UNTRAINED = {"projected_gan": [SMALL_BACKBONE]}  # a step through it costs the same
SETTING, SIZE = "fashion16", 16
EMA_DECAY = 0.999


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, repeats=9, argv=argv, batch=(64, "images per step"), inner=(2, "steps per measurement"))
    started_on = machine()
    if args.smoke:
        args.repeats, args.batch, args.inner = 1, 4, 1
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in METHODS:
            note(f"{name} …")
            rows.append([name, *measured(name, Path(folder), args.batch, args.repeats, args.clock, args.inner)])
    header = [f"{SIZE}x{SIZE}, batch {args.batch}, fp32", "updates of the discriminator", "ms per step", "bare loop"]
    publish("gan_step", [table([*header, "times the bare loop"], rows)], args, started_on)


def measured(name: str, folder: Path, batch: int, repeats: int, clock: str, inner: int) -> list[object]:
    """Discriminator updates a step, milliseconds of our step and of the bare one, and their ratio."""
    data = random_images(8 * batch, SIZE)
    trainer = trainer_of(name, folder, data, batch)
    updates = trainer.alternate.discriminator_updates
    calls = {
        "sparring": looped(stepper(trainer)),
        "bare": looped(bare_step(deepcopy(trainer.method), data, batch, updates)),
    }
    times = in_turns(calls, repeats, clock, inner)
    return [updates, milliseconds(times, "sparring"), milliseconds(times, "bare"), ratio(times, "sparring", "bare")]


def trainer_of(name: str, folder: Path, data: ImageData, batch: int) -> Trainer:
    """A trainer of a method from scratch, ready for `stepper`."""
    settings = {**compose(name, SETTING, tuned=False), "data": {"class_path": "sparring.data.Digits"}}
    fixed = ["--trainer.steps=1000000", "--trainer.tracker=null", "--trainer.precision=fp32"]
    flags = [*fixed, f"--trainer.batch_size={batch}", *UNTRAINED.get(name, [])]
    options, parsed = recipe.parse(settings, flags, tuned=False)
    torch.manual_seed(0)
    objects = options.instantiate(parsed)
    trainer = Trainer(objects.method, data, out=folder / name, **objects.trainer.as_dict())
    trainer.method.prepare(data)
    return trainer


def bare_step(method: Method, data: ImageData, batch_size: int, updates: int) -> Callable[[], None]:
    """A step of the method in a plain loop."""
    device = next(method.parameters()).device
    images = data[list(range(batch_size))][0].to(device)
    players: dict[str, list[Tensor]] = {
        role: [p for p in parameters.values() if p.requires_grad] for role, parameters in trained_by(method).items()
    }
    optimizers = {role: torch.optim.AdamW(parameters, lr=1e-4, fused=True) for role, parameters in players.items()}
    average = [parameter.detach().clone() for parameter in players["generator"]]

    def step() -> None:
        method.step += 1
        for number in range(updates):
            draws = Draws(0, step=method.step, phase=f"discriminator {number}", device=device)
            batch = method.generator.embed(Batch(images, draws=draws))
            with torch.set_grad_enabled(number == updates - 1):
                fake = method.rollout(batch)
            update(optimizers["discriminator"], players["discriminator"], method.discriminator_loss(batch, fake))
            for discriminator in method.discriminators():
                discriminator.after_update()
        with without_gradient(players["discriminator"]):
            update(optimizers["generator"], players["generator"], method.generator_loss(batch, fake))
        method.after_step()
        torch._foreach_lerp_(average, players["generator"], 1 - EMA_DECAY)

    return step


if __name__ == "__main__":
    main()
