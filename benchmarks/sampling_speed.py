"""Images per second: sparring's Sampler against diffusers' DDPMPipeline, same folder, scheduler, batch and steps.

    python benchmarks/sampling_speed.py                # 256 images of the digits network, 16 of the 32x32 network
    python benchmarks/sampling_speed.py --n 10000 --n-32 2000
    python benchmarks/sampling_speed.py --smoke

Both load the folder once before. The pipeline hands out numpy arrays (its fastest form), sparring a tensor. The last
column shows that they did the same work: the largest difference between the images of one batch from equal latents.
The second table is of guidance, which calls a class-conditional network twice a step: over the bare calls of that
network, on rows without and with their class joined as the sampler joins them, and over samples without guidance.
The third is of keys from a coarser grid (ToDo), in a network whose attention sees every pixel, over the plain sampler.
"""

import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import DDPMPipeline, UNet2DModel
from timing import arguments, in_turns, machine, note, publish, ratio, table
from trainers import GREY32, random_images, trainer_of

from sparring.generators import Denoiser
from sparring.process import VP
from sparring.samplers import Sampler, Samples
from sparring.samplers.speed.todo import ToDo

RUNS: tuple[tuple[str, int], ...] = (("ddim", 10), ("ddim", 50), ("dpm", 10), ("ddpm", 50))


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__,
        repeats=7,
        argv=argv,
        n=(256, "images of 8x8"),
        n_32=(16, "images of 32x32"),
        batch=(256, "images at once, 8x8"),
        batch_32=(16, "images at once, 32x32"),
    )
    started_on = machine()
    runs = RUNS
    if args.smoke:
        args.repeats, args.n, args.n_32, args.batch, args.batch_32 = 1, 8, 2, 4, 2
        runs = (("ddim", 2), ("dpm", 2))
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for setting, size, n, batch in (
            ("digits-vp", 8, args.n, args.batch),
            (GREY32, 32, args.n_32, args.batch_32),
        ):
            data = random_images(args.batch, size)
            flags = (f"--trainer.batch_size={batch}",)
            denoiser = trainer_of("diffusion", Path(folder), data, flags, setting).method.generator
            for scheduler, steps in runs:
                note(f"{size}x{size}, {scheduler}, {steps} steps …")
                place = Path(folder) / f"{size}-{scheduler}"
                rows.append(compare(denoiser, place, scheduler, steps, n, batch, args))
        note("guidance …")
        flags = (f"--trainer.batch_size={args.batch}",)
        classes = trainer_of("diffusion", Path(folder), None, flags, "digits-classes").method.generator
        guided = [guidance(classes, Path(folder) / "classes", runs[0][1], args)]
        note("coarser keys …")
        coarse = [keys(Path(folder) / f"keys-{size}", size, args) for size in ((8,) if args.smoke else (16, 32, 64))]
    header = ["network, scheduler, steps", "images", "batch", "sparring, images per second", "diffusers"]
    plain = table([*header, "seconds, ours over theirs", "difference"], rows)
    header = [
        "guidance 2",
        "images",
        "seconds over the bare calls",
        "calls over calls without",
        "seconds over seconds without",
    ]
    tokens = table(["tokens of attention", "images", "seconds over plain, factor 2", "factor 4"], coarse)
    publish("sampling_speed", [plain, table(header, guided), tokens], args, started_on)


def compare(
    denoiser: Denoiser, place: Path, scheduler: str, steps: int, n: int, batch: int, args: Namespace
) -> list[object]:
    """A row of the table: n images of one network with one scheduler."""
    denoiser.save(place, scheduler)
    sampler = Sampler(place)
    pipe = DDPMPipeline.from_pretrained(place).to(sampler.device)
    pipe.set_progress_bar_config(disable=True)

    def theirs(count: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        sizes = [min(batch, count - first) for first in range(0, count, batch)]
        settings = dict(num_inference_steps=steps, generator=generator, output_type="np")
        return [pipe(batch_size=size, **settings).images for size in sizes]

    def ours(count: int) -> Any:
        return sampler(count, steps, batch_size=batch).images

    mine = (ours(batch) + 1) / 2
    difference = (mine - torch.from_numpy(theirs(batch)[0]).permute(0, 3, 1, 2)).abs().max()
    calls = {"sparring": lambda _: ours(n), "diffusers": lambda _: theirs(n)}
    times = in_turns(calls, args.repeats, args.clock)
    speed = {name: f"{n / median(seconds):,.0f}" for name, seconds in times.items()}
    size = sampler.shape[1]
    row = [f"{size}x{size}, {scheduler}, {steps}", n, batch, speed["sparring"], speed["diffusers"]]
    return [*row, ratio(times, "sparring", "diffusers"), f"{float(difference):.1e}"]


def guidance(denoiser: Denoiser, place: Path, steps: int, args: Namespace) -> list[object]:
    """The row of guided samples over the bare calls of one class-conditional network, and over plain samples, DDIM."""
    denoiser.save(place, "ddim")
    sampler = Sampler(place)

    def sample(scale: float) -> Samples:
        return sampler(args.n, steps, batch_size=args.batch, guidance=scale)

    def bare(_: int) -> None:
        for first in range(0, args.n, args.batch):
            rows = 2 * min(args.batch, args.n - first)
            x_t, t, labels = torch.randn(rows, *sampler.shape), torch.zeros(rows), torch.zeros(rows, dtype=torch.long)
            with torch.inference_mode():
                for _ in range(steps):
                    sampler.generator.net(x_t, t, class_labels=labels)

    calls = sample(2.0).calls / sample(1.0).calls
    subjects = {"guided": lambda _: sample(2.0), "plain": lambda _: sample(1.0), "bare": bare}
    times = in_turns(subjects, args.repeats, args.clock)
    name = f"{sampler.shape[1]}x{sampler.shape[2]}, ddim, {steps}, guided"
    return [name, args.n, ratio(times, "guided", "bare"), f"{calls:.1f}", ratio(times, "guided", "plain")]


def keys(place: Path, size: int, args: Namespace) -> list[object]:
    """The row of ToDo's samples over plain ones: 4 images, 2 steps of DDIM, attention on `size` x `size` tokens."""
    net = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
    )
    Denoiser(net, VP(), "v").save(place, "ddim")
    sampler = Sampler(place)
    subjects = {
        str(factor): lambda _, using=using: sampler(4, 2, using=using)
        for factor, using in ((1, []), (2, [ToDo(factor=2)]), (4, [ToDo(factor=4)]))
    }
    times = in_turns(subjects, args.repeats, args.clock)
    return [f"{size}x{size}", 4, ratio(times, "2", "1"), ratio(times, "4", "1")]


if __name__ == "__main__":
    main()
