"""Memory of an ADT step against the number m of simulated steps: k of them carry gradient, or, naively, all of them.

    python benchmarks/adt_memory.py
    python benchmarks/adt_memory.py --smoke

On a CPU: the most that autograd holds at a time for backward passes (parameters not counted), from saved-tensor hooks,
and how far the process's resident memory rises above its start (Linux). On a GPU: torch.cuda.max_memory_allocated above
the start. "naive" does not cut the network's input and carries gradient in every step: back-propagation through all of
the rollout.
"""

import ctypes
import gc
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.utils.logging import disable_progress_bar
from timing import arguments, machine, note, publish, table
from torch import Tensor
from trainers import stepper, trainer_of

from sparring.data import Batch, ImageData, StoredImages
from sparring.generators.loop import Walk
from sparring.methods.tuning.adt import ADT
from sparring.process import scheduler_input
from sparring.rollout import standard_normal

STEPS: tuple[int, ...] = (4, 8, 16, 32, 64)
GRAD_STEPS: tuple[int, ...] = (1, 2, 4)


class Naive(ADT):
    """ADT with back-propagation through the whole sampler."""

    def simulated(self, batch: Batch) -> Tensor:
        walk = Walk(self.scheduler, self.num_steps, batch.images.device)

        def output(call: int, x: Tensor) -> Tensor:
            time = walk.timesteps[call]
            return self.generator.network(scheduler_input(walk.scheduler, x, time), time, batch.condition)

        return walk.run(walk.noised(batch.x_0, standard_normal(batch)), output)


class Held:
    """Counts the bytes that autograd holds, as a context: storages once each, those of `ignored` tensors not at all."""

    def __init__(self, ignored: list[Tensor]):
        self.ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self.holders: Counter[int] = Counter()
        self.now = 0
        self.most = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.tensor)

    def __enter__(self) -> "Held":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: Tensor) -> "Kept":
        kept = Kept(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.ignored:
            place, size = storage.data_ptr(), storage.nbytes()
            if self.holders[place] == 0:
                self.now += size
                self.most = max(self.most, self.now)
            self.holders[place] += 1
            weakref.finalize(kept, self.let_go, place, size)
        return kept

    def let_go(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if self.holders[place] == 0:
            self.now -= size


class Kept:
    """A tensor in autograd's keeping; gone when the backward pass has used it."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__,
        repeats=3,
        argv=argv,
        batch=(128, "images per step, digits"),
        batch_latents=(32, "images per step, latents"),
    )
    started_on = machine()
    steps, grad_steps = STEPS, GRAD_STEPS
    if args.smoke:
        args.repeats, args.batch, args.batch_latents, steps, grad_steps = 1, 4, 2, (2, 4), (1, 2)
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        tables += peaks(Path(folder), digits(args.batch), steps, grad_steps, args.repeats)
        case = latents(Path(folder), args.batch_latents)
        tables += peaks(Path(folder), case, steps[:1] if args.smoke else steps, grad_steps, args.repeats)
    publish("adt_memory", tables, args, started_on)


@dataclass
class Case:
    """What is trained: a name for the tables, the data (digits when None) and flags of the recipe."""

    name: str
    data: ImageData | None
    flags: tuple[str, ...]


def digits(batch: int) -> Case:
    return Case(f"digits 8x8, batch {batch}, fp32", None, (f"--trainer.batch_size={batch}",))


def latents(folder: Path, batch: int) -> Case:
    """A small diffusion transformer in the latents of an autoencoder, on random RGB images of 32x32 pixels."""
    disable_progress_bar()
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )
    net = DiTTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=16,
        num_embeds_ada_norm=10,
    )
    DiTPipeline(net, vae, DDIMScheduler(clip_sample=False)).save_pretrained(folder / "latents")
    images = torch.randint(0, 256, (2 * batch, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    data = StoredImages(images.to(torch.uint8), torch.arange(2 * batch) % 10)
    backbone = "--method.init_args.discriminator.init_args.backbone.init_args.in_channels=3"
    flags = (f"--trainer.batch_size={batch}", f"--denoiser.path={folder / 'latents'}", backbone)
    return Case(f"transformer in latents 4x16x16 of images 3x32x32, batch {batch}, fp32", data, flags)


def peaks(folder: Path, case: Case, steps: tuple[int, ...], grad_steps: tuple[int, ...], repeats: int) -> list[str]:
    """A table of a case for each way of measuring."""
    arms = [f"k = {k}" for k in grad_steps] + ["naive"]
    found: dict[str, list[list[object]]] = {}
    for m in steps:
        note(f"{case.name}: m = {m} …")
        row: dict[str, list[object]] = {}
        for arm in arms:
            for name, value in measure(folder, case, arm, m, repeats).items():
                row.setdefault(name, []).append(f"{value / 2**20:.1f}")
        for name, values in row.items():
            found.setdefault(name, []).append([m, *values])
    return [table([f"m, of {name}, MB ({case.name})", *arms], rows) for name, rows in found.items()]


def measure(folder: Path, case: Case, arm: str, m: int, repeats: int) -> dict[str, float]:
    """Bytes at the peak of a whole training step, by the way they were measured; the largest of the repeats."""
    k = m if arm == "naive" else int(arm.removeprefix("k = "))
    settings = dict(num_steps=m, num_grad_steps=k, start="noise")
    flags = tuple(f"--method.init_args.{name}={value}" for name, value in settings.items())
    trainer = trainer_of("adt", folder, case.data, (*case.flags, *flags))
    if arm == "naive":
        trainer.method.__class__ = Naive
    step = stepper(trainer)
    step()  # optimisers and the trainer's copies are made in the first step
    fixed = [*trainer.method.parameters(), *trainer.method.buffers()]
    most: dict[str, float] = {}
    for _ in range(repeats):
        for name, value in (on_gpu(step) if trainer.device.type == "cuda" else on_cpu(step, fixed)).items():
            most[name] = max(value, most.get(name, 0))
    return most


def on_cpu(step: Callable[[], None], fixed: list[Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}
    if sys.platform == "linux":
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        start = resident("VmHWM")
        step()
        found["rise of resident memory"] = resident("VmHWM") - start
    with Held(fixed) as held:
        step()
    return {"tensors held for backward": held.most} | found


def on_gpu(step: Callable[[], None]) -> dict[str, float]:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return {"rise of allocated GPU memory": torch.cuda.max_memory_allocated() - start}


def resident(field: str) -> float:
    """Bytes, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
