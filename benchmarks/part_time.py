"""A training step of CAFM, of immiscible noise and of TREAD over the same step without what each costs.

python benchmarks/part_time.py
python benchmarks/part_time.py --smoke
"""

import tempfile
from pathlib import Path

from timing import arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, table
from trainers import random_images, stepper, trainer_of

ONE_UPDATE = ("--trainer.discriminator_updates=1", "--trainer.discriminator_fresh_images=false")
DEEP_DIT = tuple(f"--denoiser.net.init_args.{size}" for size in ("num_layers=8", "patch_size=1"))  # 64 tokens
ALL_TOKENS = ("--method.init_args.ratio=0",)

PAIRS: dict[str, tuple[str, str, tuple[str, ...], str, tuple[str, ...], int]] = {
    "CAFM, one update of each player": ("digits-vp", "cafm", ONE_UPDATE, "diffusion", (), 1),
    "CAFM, four updates of the potential": ("digits-vp", "cafm", (), "diffusion", (), 1),
    "immiscible noise": ("digits-vp", "immiscible", (), "diffusion", (), 4),
    "TREAD, half of the tokens": ("digits-dit", "tread", DEEP_DIT, "tread", (*DEEP_DIT, *ALL_TOKENS), 1),
}
"""What is timed beside what: a setting, a method and flags, the other method and flags, and times the batch."""


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, repeats=5, argv=argv, batch=(128, "images per step; at least 16"), inner=(5, "steps per measurement")
    )
    started_on = machine()
    if args.smoke:
        args.repeats, args.batch, args.inner = 1, 16, 1
    with tempfile.TemporaryDirectory() as folder:
        publish("part_time", [pairs(Path(folder), args.batch, args.repeats, args.clock, args.inner)], args, started_on)


def pairs(folder: Path, batch: int, repeats: int, clock: str, inner: int) -> str:
    """The table of `PAIRS`, each method over the one without what it costs."""
    rows: list[list[object]] = []
    for name, (setting, one, flags, other, plain, times_batch) in PAIRS.items():
        note(f"{name} …")
        size = (f"--trainer.batch_size={times_batch * batch}",)
        data = random_images(4 * batch, 8) if setting == "digits-vp" else None
        steps = {
            "with": stepper(trainer_of(one, folder, data, (*size, *flags), setting)),
            "without": stepper(trainer_of(other, folder / "plain", data, (*size, *plain), setting)),
        }
        times = in_turns({kind: looped(step) for kind, step in steps.items()}, repeats, clock, inner)
        of = [milliseconds(times, "with"), milliseconds(times, "without"), ratio(times, "with", "without")]
        rows.append([name, times_batch * batch, *of])
    return table(["digits 8x8, fp32", "batch", "ms per step", "ms without", "times a step without"], rows)


if __name__ == "__main__":
    main()
