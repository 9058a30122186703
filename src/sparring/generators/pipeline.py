"""A denoiser as a diffusers pipeline folder, and back: what a run ships and what `--init` reads."""

import json
import os
import warnings
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.generators.condition import Prompts
from sparring.generators.denoiser import Denoiser
from sparring.networks.mlp import MLP
from sparring.process import Latents, from_scheduler


def pipeline_class(denoiser: Denoiser, scheduler: Any) -> tuple[type, str] | None:
    """The diffusers pipeline that runs this network, and the name it gives the network; None if there is none."""
    from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel

    net, pipe = denoiser.net, None if denoiser.text is None else denoiser.text.pipe
    if pipe is not None:
        return type(pipe), "transformer" if "transformer" in pipe.components else "unet"
    if isinstance(net, DiTTransformer2DModel):
        return DiTPipeline, "transformer"
    if not isinstance(net, (UNet2DModel, MLP)) or denoiser.space is not None:
        return None
    # DDPMPipeline neither scales the network's input nor passes classes; the consistency pipeline does both, and runs
    # whatever scheduler it is given.
    scales = type(scheduler).__name__.startswith("EDM")
    config: Any = net.config
    return (ConsistencyModelPipeline if scales or config.num_class_embeds is not None else DDPMPipeline), "unet"


def save_pipeline(denoiser: Denoiser, folder: Path, sampler: str) -> bool:
    """Writes the denoiser as a folder that `DiffusionPipeline.from_pretrained` opens.

    Args:
        denoiser: its network is a diffusers model; text encoders and autoencoder are written beside it.
        folder: written anew, or, where it holds this pipeline already, only its weights are replaced (atomically).
        sampler: name of the scheduler to ship, "ddim", "lcm" ….

    Returns:
        False where the network is no diffusers model, so that there is no pipeline for it.
    """
    scheduler = denoiser.process.scheduler(sampler, denoiser.prediction)
    found = pipeline_class(denoiser, scheduler)
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
    if denoiser.text is not None:
        pipe = copy(denoiser.text.pipe)
        if "steps_offset" in scheduler.config:  # these pipelines ask for 1; our spacing of the steps does not use it
            scheduler.register_to_config(steps_offset=1)
        pipe.register_modules(**parts | {k: in_float32(part) for k, part in pipe.components.items() if k not in parts})
    else:
        if name == "transformer":  # in pixel space it has none, and opens with `from_pretrained(folder, vae=None)`
            parts["vae"] = None if denoiser.space is None else in_float32(denoiser.space.vae)
        pipe = cls(**parts)
    pipe.save_pretrained(folder)
    return True


def in_float32(part: Any) -> Any:
    """A frozen network that was kept in half precision, as a pipeline that is loaded without further words needs it."""
    half = isinstance(part, nn.Module) and any(p.dtype in (torch.float16, torch.bfloat16) for p in part.parameters())
    return deepcopy(part).float() if half else part


def load_pipeline(folder: str | Path, frozen: torch.dtype = torch.float32) -> tuple[Denoiser, Any]:
    """The denoiser and the scheduler of a pipeline folder, or of a run's `pipeline/`.

    Known are pipelines of one UNet2DModel; of a DiT, with an autoencoder or without; and Stable Diffusion 1, 2, XL, 3.

    Args:
        folder: pipeline folder, or run.
        frozen: precision of the text encoders and the autoencoder; the network is read in float32.

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
        dtypes = {"unet": torch.float32, "transformer": torch.float32, "default": frozen}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `torch_dtype` is the name that all versions know
            pipe = DiffusionPipeline.from_pretrained(path, local_files_only=True, torch_dtype=dtypes, **absent)
    except Exception as error:  # whatever a damaged folder makes diffusers raise
        raise ValueError(f"{folder} could not be opened as a diffusers pipeline ({first_line(error)})") from None
    net = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if net is None:
        raise ValueError(f"{folder} is a {type(pipe).__name__} without a `unet` or `transformer`")
    if getattr(pipe, "vqvae", None) is not None:
        raise ValueError(f"{folder} is a {type(pipe).__name__}: an autoencoder with a codebook is unknown here")
    vae = getattr(pipe, "vae", None)
    text = Prompts(pipe) if "text_encoder" in pipe.components else None
    process, prediction = from_scheduler(pipe.scheduler)
    return Denoiser(net, process, prediction, None if vae is None else Latents(vae), text), pipe.scheduler


def image_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    """(C, H, W) of the images that come out, from the configuration of the network and of its autoencoder.

    Raises:
        ValueError: the network's configuration does not say.
    """
    config: Any = denoiser.net.config
    size = config.sample_size
    if size is None:
        raise ValueError(
            f"the configuration of this {type(denoiser.net).__name__} has no `sample_size`: write it there"
        )
    height, width = (size, size) if isinstance(size, int) else size
    channels = config.in_channels if denoiser.space is None else denoiser.space.vae.config.out_channels
    return channels, height * denoiser.factor, width * denoiser.factor


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
