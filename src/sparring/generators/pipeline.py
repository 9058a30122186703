"""A denoising network as a diffusers pipeline folder: what a run ships."""

import os
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.generators.condition import Prompts
from sparring.networks.mlp import MLP
from sparring.process import Latents


def pipeline_class(
    net: nn.Module, scheduler: Any, space: Latents | None, text: Prompts | None
) -> tuple[type, str] | None:
    """The diffusers pipeline that runs this network, and the name it gives the network; None if there is none."""
    from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel

    if text is not None:
        return type(text.pipe), "transformer" if "transformer" in text.pipe.components else "unet"
    if isinstance(net, DiTTransformer2DModel):
        return DiTPipeline, "transformer"
    if not isinstance(net, (UNet2DModel, MLP)) or space is not None:
        return None
    # DDPMPipeline neither scales the network's input nor passes classes; the consistency pipeline does both, and runs
    # whatever scheduler it is given.
    scales = type(scheduler).__name__.startswith("EDM")
    config: Any = net.config
    return (ConsistencyModelPipeline if scales or config.num_class_embeds is not None else DDPMPipeline), "unet"


def write_pipeline(
    folder: Path, net: nn.Module, scheduler: Any, space: Latents | None = None, text: Prompts | None = None
) -> bool:
    """Writes a folder that `DiffusionPipeline.from_pretrained` opens.

    Args:
        folder: written anew, or, if it holds this pipeline already, only its weights are replaced (atomically).
        net: a diffusers model.
        scheduler: the diffusers scheduler to ship.
        space: the autoencoder that is written beside it.
        text: the text encoders that are written beside it.

    Returns:
        False if the network is no diffusers model, so that there is no pipeline for it.
    """
    found = pipeline_class(net, scheduler, space, text)
    if found is None:
        return False
    cls, name = found
    if (folder / "model_index.json").is_file():
        draft = folder / f".{name}"
        net.save_pretrained(draft)  # type: ignore[operator]
        for file in draft.iterdir():
            os.replace(file, folder / name / file.name)
        draft.rmdir()
        return True
    parts = {name: net, "scheduler": scheduler}
    if text is not None:
        pipe = copy(text.pipe)
        if "steps_offset" in scheduler.config:  # these pipelines ask for 1; our spacing of the steps does not use it
            scheduler.register_to_config(steps_offset=1)
        pipe.register_modules(**parts | {k: in_float32(part) for k, part in pipe.components.items() if k not in parts})
    else:
        if name == "transformer":  # in pixel space it has none, and opens with `from_pretrained(folder, vae=None)`
            parts["vae"] = None if space is None else in_float32(space.vae)
        pipe = cls(**parts)
    pipe.save_pretrained(folder)
    return True


def in_float32(part: Any) -> Any:
    """A frozen network that was kept in half precision, as a pipeline that is loaded without further words needs it."""
    half = isinstance(part, nn.Module) and any(p.dtype in (torch.float16, torch.bfloat16) for p in part.parameters())
    return deepcopy(part).float() if half else part
