"""A run's folder on disk: configuration, log lines, sample grids, checkpoints and the pipeline."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparring.runs.checkpoint import (
    STATE,
    digest,
    read_checkpoint,
    remove_checkpoint,
    remove_remains,
    save_tensors,
    steps_in,
    sync,
    write_checkpoint,
)
from sparring.runs.pictures import image_grid

CONFIG = "config.yaml"


STARTING = ".starting"
LOCK = ".lock"


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder, `runs/NAME`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / CONFIG
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self.pipeline = self.path / "pipeline"
        self.lora = self.path / "lora" / "pytorch_lora_weights.safetensors"
        self.frozen = self.path / "frozen.safetensors"
        self.held: TextIO | None = None

    def create(self) -> None:
        """Makes the folder, or takes over one whose start was killed. It is a run once `write_config` is done.

        Raises:
            ValueError: the folder holds something already, or cannot be written.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise ValueError(f"`out={self.path}` is a file: give another folder")
            held = {entry.name for entry in self.path.iterdir()} - {LOCK} if self.path.exists() else set()
            if held and (CONFIG in held or STARTING not in held):
                raise ValueError(
                    f"`out={self.path}` already holds {'a run' if CONFIG in held else 'other files'}: "
                    "give another folder, or --resume to go on with a run"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            (self.path / STARTING).touch()
            for part in (self.pipeline, self.lora.parent):  # of the killed start, whose settings may have been others
                shutil.rmtree(part, ignore_errors=True)
            self.checkpoints.mkdir(exist_ok=True)
            self.samples.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"`out={self.path}` cannot be written ({error.strerror}): give another folder") from None

    def lock(self) -> None:
        """Keeps other programs from training in this folder, until `unlock` or the end of this one.

        Raises:
            ValueError: another program trains there; the file of the lock cannot be opened.
        """
        try:
            handle = (self.path / LOCK).open("w")
        except OSError as error:
            raise ValueError(f"`out={self.path}`: {LOCK} cannot be opened ({error.strerror}): remove it") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise ValueError(
                f"`out={self.path}`: another program is training there: wait for it, or give another folder"
            ) from None
        self.held = handle

    def unlock(self) -> None:
        """Lets other programs go on with this run."""
        if self.held is not None:
            self.held.close()
            self.held = None

    def discard(self) -> None:
        """Removes a run that failed before its first step, so that the folder can be given again."""
        if not steps_in(self.checkpoints):
            shutil.rmtree(self.path, ignore_errors=True)

    def write_config(self, config: dict[str, Any], **hardware: Any) -> None:
        """Writes config.yaml, the last file of a start; from then on the folder is a run."""
        self.replace_config({**config, "made_with": provenance() | hardware})
        (self.path / STARTING).unlink(missing_ok=True)

    def replace_config(self, config: dict[str, Any]) -> None:
        """Writes config.yaml anew: settings may change where a run goes on."""
        with writing("the configuration", self.path):
            replace(self.config, yaml.safe_dump(config, sort_keys=False))

    def read_config(self, notes: list[str] | None = None) -> dict[str, Any]:
        """What `write_config` wrote.

        Args:
            notes: takes in plain words what could not be read, and {} is returned; None: that is an error.

        Raises:
            ValueError: no run here, or its configuration is damaged, and there are no `notes`.
        """
        try:
            if not self.config.is_file():
                raise ValueError(f"{self.path} is not a run of sparring: it has no {CONFIG}")
            try:
                config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ValueError(f"{self.config} cannot be read ({' '.join(str(error).split())})") from None
            if not isinstance(config, dict):
                raise ValueError(f"{self.config} is not the configuration of a run")
        except ValueError as error:
            if notes is None:
                raise
            notes.append(f"{error}.")
            return {}
        return config

    def save_frozen(self, tensors: dict[str, Tensor]) -> None:
        """Writes, once, what never changes in the run: teachers, backbones, generated data sets."""
        draft = self.frozen.with_suffix(".draft")
        with writing("frozen networks", self.path):
            save_tensors(draft, tensors)
            sync(draft)
            draft.rename(self.frozen)

    def save_lora(self, weights: dict[str, Tensor]) -> None:
        """Writes adapters as diffusers' `load_lora_weights` reads them; nothing if there are none."""
        if weights:
            draft = self.lora.with_suffix(".draft")
            with writing("the adapters", self.path):
                self.lora.parent.mkdir(exist_ok=True)
                save_tensors(draft, weights)
                sync(draft)
                os.replace(draft, self.lora)

    def load_frozen(self) -> dict[str, Tensor]:
        """What `save_frozen` wrote.

        Raises:
            ValueError: the file is missing or damaged.
        """
        try:
            return load_file(self.frozen)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{self.frozen} cannot be read ({reason(error)}): the run cannot go on without it"
            ) from None

    def frozen_digest(self) -> str:
        """SHA-256 of the file of frozen networks; kept in every checkpoint."""
        return digest(self.frozen)

    def save_checkpoint(
        self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int, best: bool = False
    ) -> None:
        """Writes a checkpoint and removes older ones.

        Args:
            step: number of updates behind it.
            tensors: file stem to named tensors.
            state: plain values, among them "score" where there is one.
            keep: how many of the newest checkpoints stay.
            best: the one with the lowest score stays too.
        """
        with writing(f"the checkpoint of step {step}", self.checkpoints):
            try:
                write_checkpoint(self.checkpoints / f"{step:06d}", tensors, state)
            except (OSError, SafetensorError):
                remove_remains(self.checkpoints)
                raise
            steps = steps_in(self.checkpoints)
            kept = set(steps[-keep:])
            if best:
                kept.add(min(steps, key=self.score))
            for step in steps:
                if step not in kept:
                    remove_checkpoint(self.checkpoints / f"{step:06d}")

    def score(self, step: int) -> float:
        """The score in a checkpoint, lower is better; infinite where it has none."""
        try:
            score = json.loads((self.checkpoints / f"{step:06d}" / STATE).read_text()).get("score")
        except (OSError, ValueError, AttributeError):
            score = None
        return float("inf") if score is None else float(score)

    def load_checkpoint(self, step: int | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The checkpoint of a step, the newest when None; None if the run has no checkpoint yet.

        Raises:
            ValueError: no such step, or a damaged checkpoint (the message names the one before it).
        """
        steps = steps_in(self.checkpoints)
        if step is None and not steps:
            return None
        if step is not None and step not in steps:
            raise ValueError(f"{self.path} has no checkpoint of step {step}; it has {steps or 'none'}")
        chosen = steps[-1] if step is None else step
        try:
            return read_checkpoint(self.checkpoints / f"{chosen:06d}")
        except ValueError as error:
            earlier = [s for s in steps if s < chosen]
            advice = f"go on from the one before it with --resume_step {earlier[-1]}" if earlier else "start again"
            raise ValueError(f"{error}: {advice}") from None

    def log(self, line: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl: numbers, or a "warning"."""
        with writing("the log", self.path), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops checkpoints and log lines beyond `step`, from which the run goes on, and what a killed run left."""
        with writing("the run", self.path):
            remove_remains(self.checkpoints)
            for later in steps_in(self.checkpoints):
                if later > step:
                    remove_checkpoint(self.checkpoints / f"{later:06d}")
            if self.metrics.is_file():
                lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
                replace(self.metrics, "".join(line + "\n" for line in lines if is_until(line, step)))

    def grid(self, step: int) -> Path:
        """Where the samples of a step are."""
        return self.samples / f"{step:06d}.png"

    def save_grid(self, step: int, images: Tensor, real: Tensor | None = None) -> None:
        """Writes images [n, C, H, W] in [-1, 1] as samples/STEP.png; points are drawn over real ones."""
        with writing("samples", self.samples):
            image_grid(images, real=real).save(self.grid(step))

    def save_field(self, step: int, picture: Image.Image) -> None:
        """Writes a picture of the discriminator's field as samples/field-STEP.png."""
        with writing("samples", self.samples):
            small = picture.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            small.save(self.samples / f"field-{step:06d}.png", optimize=True)


@contextmanager
def writing(what: str, where: Path) -> Iterator[None]:
    """Turns what goes wrong while writing into one line for the user."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{what} could not be written to {where} ({reason(error)}); checkpoints before this are whole: make room "
            "and go on with --resume"
        ) from None


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    return getattr(error, "strerror", None) or str(error).removeprefix("Error while serializing: ")


def replace(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    sync(draft)
    os.replace(draft, path)


def is_until(line: str, step: int) -> bool:
    """Whether a log line is whole and belongs to the first `step` steps (a killed run may leave half a line)."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def provenance() -> dict[str, Any]:
    """Command, versions of the packages that decide a result, and the git revision of the working folder."""
    versions = {}
    for package in ("sparring", "torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # git is not installed
        found = ""
    program = Path(sys.argv[0]).name
    command = shlex.join(["sparring" if program == "__main__.py" else program, *sys.argv[1:]])
    return {"command": command, "versions": versions, "git": found or None}
