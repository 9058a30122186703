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
from copy import copy
from pathlib import Path

import torch
from timing import arguments, machine, note, publish, table
from torch import Tensor
from trainers import stepper, trainer_of

from sparring.data import Batch
from sparring.methods import ADT
from sparring.methods.adt import Simulated
from sparring.process import scheduler_input, set_timesteps
from sparring.rollout import noise, scheduler_start, standard_normal

STEPS: tuple[int, ...] = (4, 8, 16, 32, 64)
GRAD_STEPS: tuple[int, ...] = (1, 2, 4)


class Naive(ADT):
    """ADT with back-propagation through the whole sampler."""

    def rollout(self, batch: Batch) -> Simulated:
        noised = noise(self.generator.process, batch, self.times(self.generator.process, batch.draws, len(batch)))
        scheduler = copy(self.scheduler)
        set_timesteps(scheduler, self.num_steps, batch.images.device)
        x = scheduler_start(scheduler, batch.images, standard_normal(batch), scheduler.timesteps[0])
        for time in scheduler.timesteps:
            output = self.generator.network(scheduler_input(scheduler, x, time), time.expand(len(x)), batch.labels)
            x = scheduler.step(output, time, x, return_dict=False)[0]
        return Simulated(x, batch.images, noised)


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
    args = arguments(__doc__, repeats=3, argv=argv, batch=(128, "images per step"))
    started_on = machine()
    steps, grad_steps = STEPS, GRAD_STEPS
    if args.smoke:
        args.repeats, args.batch, steps, grad_steps = 1, 4, (2, 4), (1, 2)
    arms = [f"k = {k}" for k in grad_steps] + ["naive"]
    peaks: dict[str, list[list[object]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for m in steps:
            note(f"m = {m} …")
            row: dict[str, list[object]] = {}
            for arm in arms:
                for name, value in measure(Path(folder), arm, m, args.batch, args.repeats).items():
                    row.setdefault(name, []).append(f"{value / 2**20:.1f}")
            for name, values in row.items():
                peaks.setdefault(name, []).append([m, *values])
    what = f"digits 8x8, batch {args.batch}, fp32"
    tables = [table([f"m, of {name}, MB ({what})", *arms], rows) for name, rows in peaks.items()]
    publish("adt_memory", tables, args, started_on)


def measure(folder: Path, arm: str, m: int, batch: int, repeats: int) -> dict[str, float]:
    """Bytes at the peak of a whole training step, by the way they were measured; the largest of the repeats."""
    k = m if arm == "naive" else int(arm.removeprefix("k = "))
    settings = dict(num_steps=m, num_grad_steps=k, start="noise")
    flags = tuple(f"--method.init_args.{name}={value}" for name, value in settings.items())
    trainer = trainer_of("adt-digits", folder, flags=(f"--trainer.batch_size={batch}", *flags))
    if arm == "naive":
        trainer.method.__class__ = Naive
    step = stepper(trainer)
    step()  # optimisers and the trainer's copies are made in the first step
    fixed = [*trainer.method.parameters(), *trainer.method.buffers()]
    peaks: dict[str, float] = {}
    for _ in range(repeats):
        for name, value in (on_gpu(step) if trainer.device.type == "cuda" else on_cpu(step, fixed)).items():
            peaks[name] = max(value, peaks.get(name, 0))
    return peaks


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
