"""Generators from folders: what `--init`, `sample` and `evaluate` read."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparring.generators.condition import Prompts
from sparring.generators.denoiser import Denoiser
from sparring.generators.generator import Generator
from sparring.generators.latent import CONFIG, load_latent_generator
from sparring.process import Latents, from_scheduler


def load_generator(folder: str | Path, allow: Sequence[str] = ()) -> Generator:
    """What a run made, or a diffusers pipeline folder.

    Args:
        folder: run of sparring, its `pipeline/`, or a diffusers pipeline folder.
        allow: further packages whose networks the folder may name.

    Raises:
        ValueError: nothing there, of no known kind, or damaged.
    """
    path = pipeline_of(folder)
    return load_latent_generator(path, allow) if (path / CONFIG).is_file() else load_pipeline(folder)[0]


def holds_generator(folder: str | Path) -> bool:
    """Whether `load_generator` finds something to open in a folder that is no run."""
    return any((Path(folder) / name).is_file() for name in ("model_index.json", CONFIG))


def pipeline_of(folder: str | Path) -> Path:
    """The folder itself, or `pipeline/` in it if it is a run."""
    path = Path(folder)
    if (path / "config.yaml").is_file() and (path / "pipeline").is_dir():
        path = path / "pipeline"
    if not path.exists():
        raise ValueError(f"{folder} does not exist: give a run of sparring or a diffusers pipeline folder")
    return path


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

    path = pipeline_of(folder)
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
    denoiser = Denoiser(net, process, prediction, None if vae is None else Latents(vae), text)
    denoiser.own_scheduler = pipe.scheduler
    return denoiser, pipe.scheduler


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
