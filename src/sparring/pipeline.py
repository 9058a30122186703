"""A denoiser as a diffusers pipeline folder, and back: what a run ships and what `--init` reads."""

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from sparring.denoiser import Denoiser
from sparring.process import from_scheduler


def pipeline_class(net: nn.Module, scheduler: Any) -> tuple[type, str] | None:
    """The diffusers pipeline that runs this network, and the name it gives the network; None if there is none."""
    from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel

    if isinstance(net, DiTTransformer2DModel):
        return DiTPipeline, "transformer"
    if not isinstance(net, UNet2DModel):
        return None
    # DDPMPipeline neither scales the network's input nor passes classes; the consistency pipeline does both, and runs
    # whatever scheduler it is given.
    scales = type(scheduler).__name__.startswith("EDM")
    config: Any = net.config
    return (ConsistencyModelPipeline if scales or config.num_class_embeds is not None else DDPMPipeline), "unet"


def save_pipeline(denoiser: Denoiser, folder: Path, sampler: str) -> bool:
    """Writes the denoiser as a folder that `DiffusionPipeline.from_pretrained` opens.

    Args:
        denoiser: its network is a diffusers model.
        folder: written anew, or, where it holds this pipeline already, only its weights are replaced (atomically).
        sampler: name of the scheduler to ship, "ddim", "lcm" ….

    Returns:
        False where the network is no diffusers model, so that there is no pipeline for it.
    """
    scheduler = denoiser.process.scheduler(sampler, denoiser.prediction)
    found = pipeline_class(denoiser.net, scheduler)
    if found is None:
        return False
    cls, name = found
    if (folder / "model_index.json").is_file():
        draft = folder / f".{name}"
        denoiser.net.save_pretrained(draft)  # type: ignore[operator]
        for file in draft.iterdir():
            os.replace(file, folder / name / file.name)
        draft.rmdir()
        return True
    parts = {name: denoiser.net, "scheduler": scheduler}
    if name == "transformer":
        parts["vae"] = None  # a DiT in pixel space: opens with `from_pretrained(folder, vae=None)`
    cls(**parts).save_pretrained(folder)
    return True


def load_pipeline(folder: str | Path) -> tuple[Denoiser, Any]:
    """The denoiser and the scheduler of a pipeline folder, or of a run's `pipeline/`.

    Raises:
        ValueError: nothing there, not a pipeline, or a pipeline whose network is of no known kind.
    """
    from diffusers import DiffusionPipeline

    path = Path(folder)
    if (path / "config.yaml").is_file() and (path / "pipeline").is_dir():
        path = path / "pipeline"
    if not path.exists():
        raise ValueError(f"{folder} does not exist: give a run of sparring or a diffusers pipeline folder")
    if not (path / "model_index.json").is_file():
        raise ValueError(f"{folder} is neither a run of sparring with a pipeline nor a diffusers pipeline folder")
    try:
        parts = json.loads((path / "model_index.json").read_text())
        absent = {name: None for name, of in parts.items() if isinstance(of, list) and of[0] is None}
        pipe = DiffusionPipeline.from_pretrained(path, local_files_only=True, **absent)
    except Exception as error:  # whatever a damaged folder makes diffusers raise
        raise ValueError(f"{folder} could not be opened as a diffusers pipeline ({first_line(error)})") from None
    net = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if net is None:
        raise ValueError(f"{folder} is a {type(pipe).__name__} without a `unet` or `transformer`")
    process, prediction = from_scheduler(pipe.scheduler)
    return Denoiser(net, process, prediction), pipe.scheduler


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
