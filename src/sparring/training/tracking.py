"""The tracker of a run or of samples: numbers, settings and pictures, through accelerate."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from sparring.runs.folder import writing

PROJECT = "sparring"
UNTRACKED = ("none", "null", "")


def accelerator_with(tracker: str | None, folder: Path) -> Accelerator:
    """Accelerate for this process, with a tracker by its name ("wandb" …) whose files lie in the folder, or with none.

    Raises:
        ValueError: it is unknown, or not installed.
    """
    tracker = None if tracker is None or tracker.lower() in UNTRACKED else tracker
    # without `cpu` accelerate would take the processes of torchrun, on a machine without a GPU, for one each
    cpu = not torch.accelerator.is_available()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`log_with=")  # of which the line below says more
        made = Accelerator(cpu=cpu, mixed_precision="no", log_with=tracker, project_dir=str(folder))
    if tracker is not None and not made.log_with:
        raise ValueError(f"`tracker={tracker}` is not installed: install it, or choose another, or none")
    return made


class Tracking:
    """Opens a tracker of accelerate for a run; only the main process writes.

    Wandb and trackio get the run under its name, in the project that WANDB_PROJECT or TRACKIO_PROJECT names, or
    "sparring"; what else they read from their environment holds. TensorBoard's files lie in `tensorboard/` of the
    folder.

    Args:
        accelerator: of `accelerator_with`.
        folder: the run folder.
        name: of the run; None: that of its folder.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, name: str | None = None):
        self.accelerator = accelerator
        self.folder = folder
        self.name = name or folder.absolute().name

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
                    f"`tracker={name}` cannot start ({reason[:200]}): mend that, or choose another, or none"
                ) from error

    def own_settings(self, name: str) -> dict[str, Any]:
        """What the tracker gets beside the project, unless the environment says it."""
        if name == "wandb":
            own = {"name": ("WANDB_NAME", self.name), "dir": ("WANDB_DIR", str(self.folder))}
            return {key: value for key, (variable, value) in own.items() if variable not in os.environ}
        return {"name": self.name, "resume": "allow"} if name == "trackio" else {}

    def log(self, line: dict[str, float], step: int) -> None:
        """Numbers of a step."""
        with writing("the tracker's log", self.folder):
            self.accelerator.log(line, step=step)

    def picture(self, picture: Path | Image.Image, step: int, name: str = "samples") -> None:
        """The samples of a step as a picture, or its file if there is one, for trackers that take images."""
        if not self.accelerator.trackers or isinstance(picture, Path) and not picture.is_file():
            return
        if isinstance(picture, Path):
            with Image.open(picture) as opened:
                picture = opened.copy()
        image = picture.convert("RGB")
        with writing("the tracker's log", self.folder):
            for tracker in self.accelerator.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({name: np.asarray(image)[None]}, step=step, dataformats="NHWC")
                elif tracker.name in ("wandb", "swanlab"):
                    tracker.log_images({name: [image]}, step=step)
                elif tracker.name == "trackio":
                    tracker.log({name: import_module("trackio").Image(image)}, step=step)

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
