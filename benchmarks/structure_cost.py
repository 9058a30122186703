"""What SADM's structure term costs: over a plain step, over its floor, and how its matrices grow with the batch.

    python benchmarks/structure_cost.py
    python benchmarks/structure_cost.py --smoke

Every method trains the network of the setting grey32 on 32x32 images in bf16. The floor is what a frozen structure
term cannot do without: two passes of the encoder and one backward pass to the images. The second table is one
structure distance (cosine, l1) of features that are there, with its backward pass, beside those passes of the encoder
at the same batch.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from adt_memory import on_cpu
from timing import arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, table
from trainers import GREY32, random_images, stepper, trainer_of

from sparring.backbones import SmallConvNet
from sparring.discriminators import StructureDiscriminator
from sparring.methods.tuning.sadm import SADM
from sparring.objectives import structure_distance
from sparring.process import LogNormal

BATCHES: tuple[int, ...] = (64, 256, 512, 1024, 2048)
PLAIN, FLOOR, FROZEN, ADVERSARIAL = "plain", "plain and its floor", "SADM, frozen", "SADM, adversarial"


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, repeats=9, argv=argv, batch=(64, "images per step"))
    started_on = machine()
    batches = BATCHES
    if args.smoke:
        args.repeats, args.batch, batches = 1, 4, (8, 16)
    with tempfile.TemporaryDirectory() as folder:
        parts = [of_a_step(Path(folder), args.batch, args.repeats, args.clock), of_matrices(batches, args)]
    publish("structure_cost", parts, args, started_on)


def encoder() -> SmallConvNet:
    return SmallConvNet(in_channels=1, num_classes=10, pretrain="none")


def passes(net: SmallConvNet, n: int) -> Callable[[], None]:
    """Two passes of the encoder over n images of 32x32, and one backward pass to the second."""
    real, fake = torch.randn(n, 1, 32, 32), torch.randn(n, 1, 32, 32, requires_grad=True)
    net.requires_grad_(False)

    def once() -> None:
        with torch.no_grad():
            net.features(real)
        net.features(fake).sum().backward()

    return once


def of_a_step(folder: Path, batch: int, repeats: int, clock: str) -> str:
    data = random_images(4 * batch, 32)
    flags = (f"--trainer.batch_size={batch}",)
    steps, held = {}, {}
    for name in (PLAIN, FROZEN, ADVERSARIAL):
        note(f"{name} …")
        trainer = trainer_of("diffusion", folder / name, data, flags, GREY32)
        if name != PLAIN:
            mode = "frozen" if name == FROZEN else "adversarial"
            judge = StructureDiscriminator(encoder=encoder())
            method = SADM(trainer.method.generator, judge, mode=mode, times=LogNormal())
            settings = dict(steps=10**6, batch_size=batch, precision="bf16", tracker=None)
            trainer = type(trainer)(method, data, out=folder / mode, **settings)  # type: ignore[arg-type]
        steps[name] = stepper(trainer)
        steps[name]()
        fixed = [*trainer.method.parameters(), *trainer.method.buffers()]
        held[name] = next(value for key, value in on_cpu(steps[name], fixed).items() if "tensors held" in key)
    floor = passes(encoder(), batch)
    plain = steps[PLAIN]
    calls = {name: looped(step) for name, step in steps.items()}

    def both() -> None:
        plain()
        floor()

    calls[FLOOR] = looped(both)
    times = in_turns(calls, repeats, clock)
    rows: list[list[object]] = []
    for name in (PLAIN, FLOOR, FROZEN, ADVERSARIAL):
        memory = f"{held[name] / 2**20:.0f}" if name in held else ""
        rows.append([name, milliseconds(times, name), ratio(times, name, PLAIN), ratio(times, name, FLOOR), memory])
    what = f"32x32, 1.7 M parameters, batch {batch}, bf16"
    return table([what, "ms per step", "times plain", "times plain and floor", "MB held for backward"], rows)


def of_matrices(batches: tuple[int, ...], args) -> str:  # noqa: ANN001
    rows: list[list[object]] = []
    for n in batches:
        note(f"batch {n} …")
        real, fake, weight = torch.randn(n, 64), torch.randn(n, 64, requires_grad=True), torch.ones(n)

        def distance(real=real, fake=fake, weight=weight) -> None:  # noqa: ANN001
            structure_distance(real, fake, weight).backward()

        calls = {"distance": looped(distance), "encoder": looped(passes(encoder(), n))}
        times = in_turns(calls, args.repeats, args.clock)
        share = ratio(times, "distance", "encoder")
        rows.append([n, milliseconds(times, "distance"), milliseconds(times, "encoder"), share])
    return table(["batch", "distance, ms", "encoder, ms", "distance / encoder"], rows)


if __name__ == "__main__":
    main()
