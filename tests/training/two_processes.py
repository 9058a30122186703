"""Trains tiny runs of several methods, in float64; started by a launcher in two processes, or called in one.

python -m torch.distributed.run --nproc_per_node 2 two_processes.py FOLDER ACCUMULATION METHOD…
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import captioned_runs
import torch
from small_runs import ExactDigits, method, trainer
from tiny_pipelines import Captioned

from sparring.training import Interrupted

SETTINGS = {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 9, "batch_size": 8, "log_every": 1}


def run(folder: Path, accumulation: int, names: list[str], rank: int = 0) -> None:
    """One run folder for each method, "METHOD+fsdp2" for a sharded generator, "captions" for ADT of the pipeline beside
    the folder.

    Each process starts from other weights: those of the first must win.
    """
    for name in names:
        base, _, sharding = name.partition("+")
        if base == "captions":
            exact = torch.float64
            parts = {"method": captioned_runs.method(folder.parent / "sd15", "adt", exact), "data": Captioned(exact)}
        else:
            parts = {"method": method(base, seed=rank).double(), "data": ExactDigits()}
        run = trainer(folder / name, accumulation=accumulation, sharding=sharding or "none", **parts, **SETTINGS)
        run.fit()
        if sharding:
            shares = sum(parameter.to_local().numel() for parameter in run.generator.parameters)
            (folder / name / f"{rank}.txt").write_text(str(shares))
        if name == "adt+fsdp2":
            stop_and_go_on(folder / "resumed", rank, accumulation=accumulation, sharding=sharding)
        drift(folder / name)
    if (folder / "moved").is_dir():  # a run that was started by another number of processes
        go_on(folder / "moved", sharding="fsdp2")


def stop_one(folder: Path) -> None:
    """A signal to one process alone ends all of them after the same step."""
    run = trainer(folder / "stopped", "adt", steps=9, batch_size=8)
    inner = run.train_step

    def step(window: list) -> None:
        if run.step == 1 and run.rank == run.world - 1:
            run.stop(signal.SIGINT)
        inner(window)

    run.train_step = step
    try:
        run.fit()
    except Interrupted as stopped:
        (folder / f"stopped/{run.rank}.txt").write_text(str(stopped))


def stop_and_go_on(folder: Path, rank: int, **settings: Any) -> None:
    """An ADT run that is stopped after its first step, and goes on from its checkpoint in new objects."""
    for resume in (False, True):
        made = method("adt", seed=rank + 2 * resume).double()
        run = trainer(folder, method=made, data=ExactDigits(), **settings, **SETTINGS)
        if resume:
            run.fit(resume=True)
            continue
        run.alternate.stop_asked = True
        with suppress(Interrupted):
            run.fit()
        assert run.step == 1


def go_on(folder: Path, **settings: str) -> None:
    """Two more steps of an ADT run."""
    settings = {**SETTINGS, "steps": 5, "method": method("adt").double(), "data": ExactDigits(), **settings}
    trainer(folder, **settings).fit(resume=True)


def drift(folder: Path) -> None:
    """Moves one weight in one process: the next checkpoint must refuse to be written."""
    if folder.name != "sadm":
        return
    run = trainer(folder, steps=5, method=method("sadm").double(), data=ExactDigits(), batch_size=8)
    if run.world == 1:
        return
    inner = run.ema.update

    def update(decay: float | None) -> None:
        inner(decay)
        with torch.no_grad():
            run.method.discriminator.encoder.stages[0].conv.bias[1] += 1e-12 * run.rank

    run.ema.update = update
    try:
        run.fit(resume=True)
    except RuntimeError as error:
        if run.main:
            (folder / "drift.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:], int(os.environ["RANK"]))
    stop_one(Path(sys.argv[1]))
