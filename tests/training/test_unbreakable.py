"""What can go wrong around a run: kills, signals, full and read-only disks, damaged files. Nothing whole is lost."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from small_runs import assert_same_checkpoint, trainer

from sparring.runs import RunFolder, checkpoint, folder
from sparring.runs.checkpoint import read_checkpoint, steps_in, write_checkpoint
from sparring.training import Interrupted

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does(tmp_path):
    """50 kills: `python tests/training/killed_runs.py FOLDER 50`."""
    paths = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(HERE / "killed_runs.py"), str(tmp_path), "6"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.startswith("6 kills")


@pytest.mark.parametrize("files", range(1, 9))
def test_a_write_that_dies_after_any_file_leaves_what_was_there(tmp_path, monkeypatch, files):
    """The same without chance: dies at each of the points at which something reaches the disk."""
    tensors = {name: {"weight": torch.full((3,), 1.0)} for name in ("generator", "ema", "discriminator")}
    write_checkpoint(tmp_path / "000002", tensors, state(2))
    seen = []

    def dying(path):
        seen.append(path)
        if len(seen) == files:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "sync", dying)
    later = {name: {"weight": torch.full((3,), 2.0)} for name in tensors}
    try:
        write_checkpoint(tmp_path / "000002", later, state(2))
        survived = True
    except KeyboardInterrupt:
        survived = False
    monkeypatch.undo()
    read, found = read_checkpoint(tmp_path / "000002")
    value = read["ema"]["weight"][0].item()
    assert found["step"] == 2
    assert {tensor["weight"][0].item() for tensor in read.values()} == {value}
    assert value == (2.0 if survived or files == 6 else 1.0)
    checkpoint.remove_remains(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000002"]


def state(step):
    names = ("seed", "batch_size", "seconds", "images_seen", "skipped", "ema_updates")
    return {"step": step, **dict.fromkeys(names, 0)}


def test_a_removal_that_dies_halfway_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "000002", {"ema": {"weight": torch.ones(3)}}, state(2))

    def halfway(path, **_):
        if path.exists():
            (path / "ema.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", halfway)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.remove_checkpoint(tmp_path / "000002")
    assert steps_in(tmp_path) == []


# -- disks -------------------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int):
    """A stand-in for a full disk: larger files cannot be written by this process."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path):
    settings = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 9}
    whole = trainer(tmp_path / "whole", "adt", **settings).fit()
    run = trainer(tmp_path / "run", "adt", **settings)
    inner = run.folder.save_checkpoint

    def full_at_step_4(step, *arguments):
        if step == 4:
            with files_of_at_most(2000):
                return inner(step, *arguments)
        return inner(step, *arguments)

    run.folder.save_checkpoint = full_at_step_4
    with pytest.raises(ValueError, match="the checkpoint of step 4 could not be written .*File too large") as error:
        run.fit()
    assert "\n" not in str(error.value)
    assert "--resume" in str(error.value)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["000002"]
    trainer(tmp_path / "run", "adt", **settings).fit(resume=True)
    assert_same_checkpoint(whole, tmp_path / "run", 6)


@pytest.mark.parametrize("where", ["log", "grid", "pipeline", "configuration", "frozen"])
def test_whatever_cannot_be_written_is_one_line(tmp_path, monkeypatch, where):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_, **__):
        raise full

    run = trainer(tmp_path / "run", "adt")
    if where == "log":
        (tmp_path / "run").mkdir()
        (tmp_path / "run/.starting").touch()
        (tmp_path / "run/metrics.jsonl").symlink_to("/dev/full")
    elif where == "grid":
        monkeypatch.setattr(folder, "image_grid", fail)
    elif where == "pipeline":
        monkeypatch.setattr("sparring.generators.denoiser.write_pipeline", fail)
    elif where == "configuration":
        monkeypatch.setattr(folder, "replace", fail)
    else:
        monkeypatch.setattr(folder, "save_tensors", fail)
    with pytest.raises(ValueError, match="could not be written to .* \\(No space left on device\\)"):
        run.fit()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for out, message in ((tmp_path / "file", "is a file"), (tmp_path / "file/run", "cannot be written")):
        with pytest.raises(ValueError, match=message):
            trainer(out).fit()
    assert (tmp_path / "file").read_text() == "mine"

    def refused(self, *_, **__):  # root may write everywhere, so the refusal is played
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ValueError, match="`out=.*` cannot be written \\(Permission denied\\): give another folder"):
        trainer(tmp_path / "run").fit()


# -- damaged files -----------------------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": lambda run: flip(run / "checkpoints/000006/ema.safetensors"),
    "a cut file": lambda run: os.truncate(run / "checkpoints/000006/generator.safetensors", 100),
    "a missing file": lambda run: (run / "checkpoints/000006/optimizer_generator.safetensors").unlink(),
    "an empty state": lambda run: (run / "checkpoints/000006/state.json").write_text(""),
    "another state": lambda run: (run / "checkpoints/000006/state.json").write_text("[1, 2]"),
    "a half state": lambda run: (run / "checkpoints/000006/state.json").write_text('{"step": 6, "files": {}}'),
    "a changed state": lambda run: change_state(run, step=600),
    "a path in the state": lambda run: change_state(run, files={"../../config.yaml": "0"}),
}


def change_state(run, **values):
    path = run / "checkpoints/000006/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_names_the_one_before_it(tmp_path, damage):
    settings = {"checkpoint_every": 2, "keep_checkpoints": 9}
    run = trainer(tmp_path / "run", **settings).fit()
    whole = shutil.copytree(run, tmp_path / "whole")
    DAMAGE[damage](run)
    with pytest.raises(ValueError, match=r"000006 is damaged .*--resume_step 4$") as error:
        trainer(run, **settings).fit(resume=True)
    assert "\n" not in str(error.value)
    assert steps_in(run / "checkpoints") == [2, 4, 6]
    trainer(run, **settings).fit(resume_step=4)
    assert_same_checkpoint(whole, run, 6)


def test_the_only_checkpoint_damaged_and_other_damaged_files(tmp_path):
    run = trainer(tmp_path / "run", "ddo").fit()
    flip(run / "frozen.safetensors")
    with pytest.raises(ValueError, match="frozen.safetensors is not what was written"):
        trainer(run, "ddo").fit(resume=True)
    (run / "frozen.safetensors").unlink()
    with pytest.raises(ValueError, match="frozen.safetensors cannot be read"):
        trainer(run, "ddo").fit(resume=True)
    flip(run / "checkpoints/000006/ema.safetensors")
    with pytest.raises(ValueError, match="is damaged .*: start again"):
        trainer(run, "ddo").fit(resume=True)
    for text, message in (("a: [1", "cannot be read"), ("- 1", "is not the configuration of a run")):
        (run / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            trainer(run, "ddo").fit(resume=True)


def test_a_half_line_of_the_log_is_cut_away(tmp_path):
    run = trainer(tmp_path / "run", steps=4, log_every=2).fit()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "generator/diffu')
    trainer(run, steps=6, log_every=2).fit(resume=True)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]


# -- rotation ----------------------------------------------------------------------------------------------------------


def test_the_newest_checkpoints_stay(tmp_path):
    run = trainer(tmp_path / "run", steps=7, checkpoint_every=1, keep_checkpoints=3).fit()
    assert steps_in(run / "checkpoints") == [5, 6, 7]


def test_the_best_checkpoint_stays_too(tmp_path, monkeypatch):
    scores = iter([5.0, 1.0, 3.0, 2.0, 4.0])
    monkeypatch.setattr("sparring.training.publisher.EmaPublisher.error", lambda _: next(scores))
    run = trainer(tmp_path / "run", steps=5, checkpoint_every=1, keep_checkpoints=1, keep_best=True).fit()
    assert steps_in(run / "checkpoints") == [2, 5]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["validation/diffusion"] for line in lines if "validation/diffusion" in line] == [5, 1, 3, 2, 4]
    found = RunFolder(run).load_checkpoint(2)
    assert found is not None
    assert found[1]["score"] == 1.0


def test_the_score_is_the_averages_error_on_held_out_images(tmp_path):
    run = trainer(tmp_path / "run", steps=30, checkpoint_every=10, keep_checkpoints=9, keep_best=True)
    run.fit()
    scores = [run.folder.score(step) for step in (10, 20, 30)]
    assert scores == sorted(scores, reverse=True)
    assert run.folder.score(40) == float("inf")


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [0, 1])
def test_signals_save_and_end_the_run(tmp_path, number, code, workers):
    """To the whole group of processes, as a terminal or a cluster sends them."""
    started = os.getpgrp()

    def train():
        os.setpgid(0, 0)
        try:
            trainer(tmp_path / "run", "adt", steps=10**6, data_workers=workers, log_every=10**6).fit()
        except Interrupted as stopped:
            return stopped.exit_code
        return 1

    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(train())
    try:
        wait_for(lambda: (tmp_path / "run/config.yaml").exists())
        time.sleep(0.3)
        assert os.getpgid(child) != started
        os.killpg(child, number)
        end = time.monotonic() + 60
        while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(done[1]) == code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    (step,) = steps_in(tmp_path / "run/checkpoints")
    assert step > 0
    read_checkpoint(tmp_path / f"run/checkpoints/{step:06d}")


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_signal_in_the_last_step_is_too_late(tmp_path):
    run = trainer(tmp_path / "run", steps=2)
    run.alternate.stop_asked = True
    inner = run.train_step
    run.train_step = lambda window: (setattr(run.alternate, "stop_asked", run.step == 1), inner(window))
    run.fit()
    assert steps_in(tmp_path / "run/checkpoints") == [2]


def test_the_command_line_answers_a_signal_with_its_code(tmp_path, monkeypatch, capfd):
    from sparring.cli import main as cli
    from sparring.training import Trainer

    def fit(self, **_):
        raise Interrupted(signal.SIGTERM, 7)

    monkeypatch.setattr(Trainer, "fit", fit)
    assert (
        cli.main(["fit", "diffusion", "--on", "digits", "--out", str(tmp_path / "run"), "--trainer.tracker=null"])
        == 143
    )
    message = capfd.readouterr().err.strip()
    assert re.fullmatch("sparring: stopped by SIGTERM after step 7; go on with --resume", message)
