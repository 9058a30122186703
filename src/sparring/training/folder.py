"""A run's folder on disk: configuration, log lines, sample grids, checkpoints and the pipeline."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from sparring.training.checkpoint import read_checkpoint, save_tensors, steps_in, sync, write_checkpoint

CONFIG = "config.yaml"


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
        self.frozen = self.path / "frozen.safetensors"

    def create(self, config: dict[str, Any]) -> None:
        """Starts a new run here.

        Raises:
            ValueError: the folder holds something already, or cannot be written.
        """
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(
                    f"`out={self.path}` already holds {'a run' if self.config.exists() else 'other files'}: "
                    "give another folder, or --resume to go on with a run"
                )
            self.checkpoints.mkdir(parents=True)
            self.samples.mkdir()
            self.config.write_text(yaml.safe_dump({**config, "made_with": provenance()}, sort_keys=False))
        except OSError as error:
            raise ValueError(f"`out={self.path}` cannot be written ({error.strerror}): give another folder") from None

    def read_config(self) -> dict[str, Any]:
        """What `create` wrote.

        Raises:
            ValueError: no run here.
        """
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run of sparring: it has no {CONFIG}")
        return yaml.safe_load(self.config.read_text())

    def save_frozen(self, tensors: dict[str, Tensor]) -> None:
        """Writes, once, what never changes in the run: teachers, backbones, generated data sets."""
        draft = self.frozen.with_suffix(".draft")
        save_tensors(draft, tensors)
        sync(draft)
        draft.rename(self.frozen)

    def load_frozen(self) -> dict[str, Tensor]:
        return load_file(self.frozen) if self.frozen.is_file() else {}

    def save_checkpoint(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int) -> None:
        """Writes a checkpoint and removes all but the newest `keep`."""
        try:
            write_checkpoint(self.checkpoints / f"{step:06d}", tensors, state)
        except OSError as error:
            shutil.rmtree(self.checkpoints / f".{step:06d}.draft", ignore_errors=True)
            raise ValueError(
                f"checkpoint of step {step} could not be written to {self.checkpoints} ({error.strerror}); "
                "earlier checkpoints are whole: make room and go on with --resume"
            ) from None
        for old in steps_in(self.checkpoints)[:-keep]:
            shutil.rmtree(self.checkpoints / f"{old:06d}")

    def load_checkpoint(self, step: int | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The checkpoint of a step, the newest when None; None where the run has no checkpoint yet.

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
        """Appends one line of numbers to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops log lines and later checkpoints beyond `step`, from which the run goes on."""
        if self.metrics.is_file():
            kept = [line for line in self.metrics.read_text().splitlines() if is_until(line, step)]
            draft = self.metrics.with_suffix(".draft")
            draft.write_text("".join(line + "\n" for line in kept))
            os.replace(draft, self.metrics)
        for later in steps_in(self.checkpoints):
            if later > step:
                shutil.rmtree(self.checkpoints / f"{later:06d}")

    def save_grid(self, step: int, images: Tensor) -> None:
        """Writes images [n, C, H, W] in [-1, 1] as samples/STEP.png."""
        image_grid(images).save(self.samples / f"{step:06d}.png")


def is_until(line: str, step: int) -> bool:
    """Whether a log line is whole and belongs to the first `step` steps (a killed run may leave half a line)."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """A picture of images [n, C, H, W] in [-1, 1] (C 1 or 3), as near to a square as n allows, with grey lines between."""
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = max(1, width // 32)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, dtype=np.uint8)
    for i, pixels in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + gap) + gap
        sheet[top : top + height, left : left + width] = pixels
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255, clamped and rounded; NaN becomes 0."""
    return ((images.detach().float().cpu().nan_to_num(-1) + 1) * 127.5).clamp(0, 255).round().byte()


def provenance() -> dict[str, Any]:
    """Command, versions of the packages that decide a result, and the git revision of the working folder."""
    versions = {}
    for package in ("sparring", "torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "versions": versions, "git": git.stdout.strip() or None}
