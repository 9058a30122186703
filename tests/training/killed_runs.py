"""Kills a run at random moments, most of them while it writes a checkpoint, until it is done; then compares.

    python tests/training/killed_runs.py FOLDER KILLS [SEED]

Every attempt is a fork of this process and is ended by SIGKILL. After each kill all checkpoints must be whole. At the
end weights, averages, moments, counters, the log and the samples must be those of a run that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small_runs import assert_same_checkpoint, trainer

from sparring.runs import checkpoint
from sparring.runs.checkpoint import read_checkpoint, steps_in

STEPS = 24
SECONDS_PER_FILE = 0.04  # that writing is made to take, so that kills hit it


def train(folder: Path) -> None:
    run = trainer(folder, "adt", steps=STEPS, checkpoint_every=2, sample_every=6, log_every=3, keep_checkpoints=2)
    run.fit(resume=run.folder.config.exists())


def slow_disk() -> None:
    inner = checkpoint.sync

    def sync(path: Path) -> None:
        time.sleep(SECONDS_PER_FILE)
        inner(path)

    checkpoint.sync = sync


def in_a_fork(work: Callable[[], None], seconds: float) -> bool:
    """Runs something in a fork and kills it after so many seconds; whether it was done before."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            try:
                work()
            except BaseException as error:
                print(f"an attempt failed: {error!r}", flush=True)
                os._exit(1)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (done := os.waitpid(child, os.WNOHANG))[0]:
            assert os.waitstatus_to_exitcode(done[1]) == 0, "an attempt failed by itself"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds_per_step"} for line in lines]


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    trainer(folder / "none", "adt")  # what the forks need is imported once
    whole, cut = folder / "whole", folder / "cut"
    started = time.monotonic()
    assert in_a_fork(lambda: train(whole), 600)
    undisturbed = time.monotonic() - started
    slow_disk()
    chance = random.Random(seed)
    killed = writing = starting = finished = 0
    while killed < kills:
        done = in_a_fork(lambda: train(cut), chance.uniform(0.0, 0.5 * undisturbed))
        if done:  # nothing left to kill: once more from the start
            finished += 1
            shutil.rmtree(cut)
            continue
        killed += 1
        writing += any((cut / "checkpoints").glob(".*"))
        starting += not (cut / "config.yaml").exists()
        for step in steps_in(cut / "checkpoints"):
            read_checkpoint(cut / "checkpoints" / f"{step:06d}")
    assert in_a_fork(lambda: train(cut), 600)
    assert_same_checkpoint(whole, cut, STEPS)
    assert log(whole) == log(cut)
    for step in range(0, STEPS + 1, 6):
        name = f"samples/{step:06d}.png"
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    assert not list((cut / "checkpoints").glob(".*"))
    counts = f"{writing} in a checkpoint, {starting} before the first step, {finished} runs finished"
    print(f"{killed} kills, {counts}: all equal")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
