"""The tracker of a run: numbers, settings and pictures of samples, through accelerate."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from sparring.runs.folder import writing

PROJECT = "sparring"
UNTRACKED = ("none", "null", "")


class Tracking:
    """Opens a tracker of accelerate for a run; only the main process writes.

    Wandb and trackio get the run under its folder's name, in the project that WANDB_PROJECT or TRACKIO_PROJECT names,
    or "sparring"; what else they read from their environment holds. TensorBoard's files lie in `tensorboard/` of the
    run.

    Args:
        accelerator: made with `log_with` and the run folder as its `project_dir`.
        folder: the run folder.
    """

    def __init__(self, accelerator: Accelerator, folder: Path):
        self.accelerator = accelerator
        self.folder = folder

    def start(self, config: dict[str, Any]) -> None:
        """Opens it, with the settings of the run.

        Raises:
            ValueError: it cannot start, as without an account; nothing is trained by then.
        """
        for kind in self.accelerator.log_with:
            name = str(getattr(kind, "value", kind))
            project = PROJECT if name != "tensorboard" else "tensorboard"  # there it is the name of the folder
            project = os.environ.get(f"{name.upper()}_PROJECT") or project
            try:
                self.accelerator.init_trackers(
                    project, config=flat(config), init_kwargs={name: self.own_settings(name)}
                )
            except Exception as error:  # whatever the tracker's library raises of accounts, networks and disks
                self.accelerator.trackers = []  # which never began, and could not be finished
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(
                    f"`tracker={name}` cannot start ({reason[:200]}): mend that, or go without, --trainer.tracker none"
                ) from error

    def own_settings(self, name: str) -> dict[str, Any]:
        """What the tracker gets beside the project, unless the environment says it."""
        if name == "wandb":
            own = {"name": ("WANDB_NAME", self.folder.absolute().name), "dir": ("WANDB_DIR", str(self.folder))}
            return {key: value for key, (variable, value) in own.items() if variable not in os.environ}
        return {"name": self.folder.absolute().name, "resume": "allow"} if name == "trackio" else {}

    def log(self, line: dict[str, float], step: int) -> None:
        """Numbers of a step."""
        with writing("the tracker's log", self.folder):
            self.accelerator.log(line, step=step)

    def picture(self, file: Path, step: int) -> None:
        """The samples of a step as an image, for trackers that take images."""
        if not self.accelerator.trackers or not file.is_file():
            return
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        with writing("the tracker's log", self.folder):
            for tracker in self.accelerator.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({"samples": np.asarray(image)[None]}, step=step, dataformats="NHWC")
                elif tracker.name in ("wandb", "swanlab"):
                    tracker.log_images({"samples": [image]}, step=step)
                elif tracker.name == "trackio":
                    tracker.log({"samples": import_module("trackio").Image(image)}, step=step)

    def finish(self) -> None:
        """Closes it; not `end_training`, after which no other run of this program could use the processes."""
        for tracker in self.accelerator.trackers if self.accelerator.is_main_process else []:
            tracker.finish()


def flat(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by dotted names, as every tracker takes them: numbers and words as they are, lists as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
