"""Two processes on half batches are one process on the joined batch, for every method and under both launchers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import two_processes
from small_runs import METHODS, TUNING, TinyNet, assert_same_checkpoint, checkpoint

from sparring.runs.checkpoint import steps_in

pytestmark = pytest.mark.slow


def launch(launcher: str, *arguments: object) -> None:
    """Runs a script in two processes; whatever is left of them is ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    commands = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
        # `--cpu --num_processes=2` starts one process only (accelerate 1.15); this option starts two, GPU or not
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", f"--main_process_port={port}"]
        + ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"],
    }
    here = Path(__file__).parent
    paths = [str(here.parents[1] / "src"), str(here), str(here.parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *commands[launcher], *map(str, arguments)]
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        errors = started.communicate(timeout=400)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, errors[-4000:]


# What these measure of themselves at the end is in float32, and the runs here are in float64.
MEASURED = ("bigan", "fastgan", "gan_em", "improved", "mine", "otm", "slogan", "wgan")


@pytest.mark.parametrize(("launcher", "accumulation"), [("torchrun", 1), ("accelerate", 2)])
def test_two_processes_equal_one(tiny, tmp_path, launcher, accumulation):
    """The second launch also cuts the half batches into micro-batches, and spreads the generator (FSDP2)."""
    tried = [name for name in METHODS if name not in MEASURED]
    names = (*tried, "captions") if launcher == "torchrun" else tried
    shutil.copytree(tiny("sd15"), tmp_path / "sd15")
    two_processes.run(tmp_path / "one", 1, list(names))
    spread = [name for name in TUNING if name != "progressive"]  # whose moving copy refuses shares
    sharded = [] if launcher == "torchrun" else [f"{name}+fsdp2" for name in spread]
    if sharded:  # a run may also go on in another number of processes
        shutil.copytree(tmp_path / "one/adt", tmp_path / "two/moved")
        two_processes.go_on(tmp_path / "one/adt")
    launch(launcher, Path(two_processes.__file__), tmp_path / "two", accumulation, *names, *sharded)
    for name in [*names, *sharded]:
        one = tmp_path / "one" / name.removesuffix("+fsdp2")
        for step in (1, 2, 3):
            assert_equal(one, tmp_path / "two" / name, step)
        logs = [(run / "metrics.jsonl").read_text().splitlines()[:3] for run in (one, tmp_path / "two" / name)]
        same_numbers(*logs)
        assert (one / "samples/000003.png").read_bytes() == (
            tmp_path / "two" / name / "samples/000003.png"
        ).read_bytes()
    if sharded:
        assert_equal(tmp_path / "one/adt", tmp_path / "two/moved", 5)
        total = sum(parameter.numel() for parameter in TinyNet().parameters())
        shares = [int((tmp_path / f"two/diffusion+fsdp2/{rank}.txt").read_text()) for rank in (0, 1)]
        assert sum(shares) == total
        assert min(shares) > 0.3 * total
        for step in (2, 3):  # stopped and resumed under sharding, opponent included: bit for bit
            assert_same_checkpoint(tmp_path / "two/adt+fsdp2", tmp_path / "two/resumed", step)
        assert (tmp_path / "two/resumed/checkpoints/000003/discriminator.safetensors").is_file()
    told = [(tmp_path / f"two/stopped/{rank}.txt").read_text() for rank in (0, 1)]
    assert told == [f"stopped by {name} after step 2; go on with --resume" for name in ("SIGTERM", "SIGINT")]
    assert steps_in(tmp_path / "two/stopped/checkpoints") == [2]
    if "sadm" in names:
        refusal = (tmp_path / "two/sadm/drift.txt").read_text()
        assert refusal.startswith("processes have drifted apart: discriminator/encoder.stages.0.conv.bias of process 1")


def assert_equal(folder: Path, folder_2: Path, step: int) -> None:
    (one, state), (two, state_2) = checkpoint(folder, step), checkpoint(folder_2, step)
    assert one.keys() == two.keys()
    differences = [(tensor - two[group][key]).abs().flatten() for group in one for key, tensor in one[group].items()]
    assert torch.cat(differences).mean() < 1e-10, folder_2
    assert torch.cat(differences).max() < 1e-8, folder_2
    assert (state["world"], state_2["world"], state["seed"]) == (1, 2, state_2["seed"])
    assert state_2["images_seen"] >= state["images_seen"]  # with accumulation a shared fake is made twice


def same_numbers(one: list[str], two: list[str]) -> None:
    for line, line_2 in zip(map(json.loads, one), map(json.loads, two), strict=True):
        line.pop("seconds_per_step")
        line_2.pop("seconds_per_step")
        assert line.keys() == line_2.keys()
        for key, value in line.items():
            assert line_2[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key
