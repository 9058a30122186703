"""A training step of every method of a denoiser over the bare network's, and of plain diffusion against two peers.

    python benchmarks/step_time.py                     # both parts, fp32 and bf16
    python benchmarks/step_time.py --smoke

Floor: forward, squared error, backward and a fused AdamW on one batch that is ready: no noise, no clipping, no EMA, no
data. Ours is a whole step of the trainer's loop: fetch a batch from memory, noise it, update, clip, check, average.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from peers import accelerate_anew, bare_loop, diffusers_loop, lucidrains_loop
from timing import Times, arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, table
from torch import nn
from trainers import GREY32, random_images, stepper, trainer_of

from sparring.training import Trainer

METHODS = ("diffusion", "add", "adt", "ddgan", "ddo", "rdgan", "sadm")  # those of one and the same denoiser


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__,
        repeats=15,
        argv=argv,
        batch=(128, "images per step, 8x8; at least 16"),
        batch_32=(64, "images per step, 32x32; at least 16"),
        inner=(10, "steps per measurement, 8x8"),
        inner_32=(2, "steps per measurement, 32x32"),
    )
    started_on = machine()
    size = 32
    if args.smoke:
        size = 16
        args.repeats, args.batch, args.batch_32, args.inner, args.inner_32 = 1, 16, 16, 1, 1
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        note("methods on digits …")
        parts.append(methods(Path(folder), args.batch, args.repeats, args.clock, args.inner))
        for precision in ("fp32", "bf16"):
            note(f"peers, {precision} …")
            parts.append(
                peers(Path(folder) / precision, precision, size, args.batch_32, args.repeats, args.clock, args.inner_32)
            )
    publish("step_time", parts, args, started_on)


def methods(folder: Path, batch: int, repeats: int, clock: str, inner: int) -> str:
    """The table of every method on the digits network, in float32."""
    trainers: dict[str, Trainer] = {
        name: trainer_of(name, folder, flags=(f"--trainer.batch_size={batch}",)) for name in METHODS
    }
    first = trainers["diffusion"]
    images = first.data[list(range(batch))][0].to(first.device)
    floor = bare_loop(deepcopy(first.method.generator.net), images, "fp32")
    calls = {"bare network": looped(floor)} | {name: looped(stepper(trainer)) for name, trainer in trainers.items()}
    times = in_turns(calls, repeats, clock, inner)
    rows: list[list[object]] = []
    for name in times:
        calls_per_step = 1.0 if name == "bare network" else network_calls(trainers[name], batch)
        rows.append([name, f"{calls_per_step:.1f}", milliseconds(times, name), ratio(times, name, "bare network")])
    size = parameters(first.method.generator.net)
    header = [f"digits 8x8, {size}, batch {batch}, fp32", "network calls", "ms per step", "times the bare network"]
    return table(header, rows)


def network_calls(trainer: Trainer, batch: int) -> float:
    """Batches that a step passes through a denoiser (generator, teacher, reference), on average."""
    return sum(denoiser.images_seen for denoiser in trainer.method.generators()) / batch / trainer.step


def peers(folder: Path, precision: str, size: int, batch: int, repeats: int, clock: str, inner: int) -> str:
    """The table of plain diffusion on the network of the setting grey32, against its floor and the peers."""
    folder.mkdir()
    of_size = f"--denoiser.net.init_args.sample_size={size}"
    flags = (f"--trainer.batch_size={batch}", f"--trainer.precision={precision}", of_size)
    data = random_images(4 * batch, size)
    trainer = trainer_of("diffusion", folder, data, flags, GREY32)
    images = data[list(range(batch))][0].to(trainer.device)
    net = trainer.method.generator.net
    calls: dict[str, Callable[[int], object]] = {
        "bare network": looped(bare_loop(deepcopy(net), images, precision)),
        "sparring": looped(stepper(trainer)),
    }
    missing: list[list[object]] = []
    with accelerate_anew():
        calls["diffusers' unconditional example"] = looped(diffusers_loop(deepcopy(net), images, precision))
        lucidrains = "denoising-diffusion-pytorch's Trainer"
        try:
            calls[lucidrains] = lucidrains_loop(deepcopy(net), images, precision, folder)
        except ImportError as error:
            missing.append([lucidrains, f"not measured: {error}", "", ""])
        times = in_turns(calls, repeats, clock, inner)
    rows = [row(times, name) for name in calls]
    header = [f"{size}x{size}, {parameters(net)}, batch {batch}, {precision}", "ms per step", "times the bare network"]
    return table([*header, "times ours"], rows + missing)


def row(times: Times, name: str) -> list[object]:
    return [name, milliseconds(times, name), ratio(times, name, "bare network"), ratio(times, name, "sparring")]


def parameters(net: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in net.parameters())
    return f"{count / 1e6:.1f} M parameters" if count >= 1e6 else f"{count / 1e3:.0f} k parameters"


if __name__ == "__main__":
    main()
