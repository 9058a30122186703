"""A denoising network as a diffusers pipeline folder: what a run ships."""

import json
import os
import shutil
import sys
from copy import copy, deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.generators.families import Family
from sparring.generators.labels import OWN_NETWORKS
from sparring.generators.start import Start
from sparring.networks.latent_slot import LatentSlot, Slot, TimeSlot
from sparring.process import Latents
from sparring.runs.checkpoint import let_read

OWN = "denoiser_pipeline"
"""The module of `DenoiserPipeline`, which is shipped as a file if no pipeline of diffusers runs a network as we do."""


def pipeline_class(
    net: nn.Module,
    scheduler: Any,
    space: Latents | None,
    text: Family | None,
    slot: Slot | None = None,
    start: Start | None = None,
) -> tuple[type, str] | None:
    """The pipeline that draws with this network what we draw, and the name it gives the network; None if there is none.

    One of diffusers where it does: DDPMPipeline passes no classes and neither scales the network's input nor its noise;
    ConsistencyModelPipeline does all of this, for square images; DiTPipeline takes class 1000 as "none". Both pass a
    generator to every scheduler, which not all of them take, and none knows the times of a rectified flow.
    """
    from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel

    from sparring.generators.denoiser_pipeline import DenoiserPipeline

    if text is not None:
        return type(text.pipe), text.part
    if not isinstance(net, (UNet2DModel, DiTTransformer2DModel, *OWN_NETWORKS)):
        return None
    is_flow = type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))
    scales = "Euler" in type(scheduler).__name__ or type(scheduler).__name__.startswith(("EDM", "Heun"))
    config: Any = net.config
    if isinstance(net, DiTTransformer2DModel):
        vae = space.vae.config if type(space) is Latents else None  # of an autoencoder, and no wavelet
        plain = vae is not None and not any(vae.get(name) for name in ("shift_factor", "latents_mean", "latents_std"))
        stock = plain and config.num_embeds_ada_norm == 1000 and not is_flow and not scales and slot is start is None
        return (DiTPipeline if stock else DenoiserPipeline), "transformer"
    learned = isinstance(net, UNet2DModel) and config.out_channels != config.in_channels
    takes_generator = "generator" in signature(scheduler.step).parameters
    if space is not None or not (slot is start is None) or learned or is_flow or not takes_generator:
        return DenoiserPipeline, "unet"
    if not scales and config.num_class_embeds is None:
        return DDPMPipeline, "unet"
    return (ConsistencyModelPipeline if isinstance(config.sample_size, int) else DenoiserPipeline), "unet"


def write_pipeline(
    folder: Path,
    net: nn.Module,
    scheduler: Any,
    space: Latents | None = None,
    text: Family | None = None,
    slot: LatentSlot | None = None,
    time_slot: TimeSlot | None = None,
    start: Start | None = None,
) -> bool:
    """Writes a folder that `DiffusionPipeline.from_pretrained` opens.

    If the pipeline is ours (see `pipeline_class`), it lies in the folder as a file, and `from_pretrained` wants
    `trust_remote_code=True`. A scheduler that diffusers does not have (Heun's method for EDM) is replaced by the one
    that it extends (Euler's).

    Args:
        folder: written anew, or, if it holds this pipeline already, only its weights are replaced (atomically).
        net: a diffusers model.
        scheduler: the diffusers scheduler to ship.
        space: the autoencoder that is written beside it.
        text: the text encoders that are written beside it.
        slot: through which it is conditioned on a latent z.
        time_slot: through which it takes the length of a step.
        start: density that its samples begin from.

    Returns:
        False if the network is no diffusers model, so that there is no pipeline for it.
    """
    scheduler = stock_scheduler(scheduler)
    found = pipeline_class(net, scheduler, space, text, slot or time_slot, start)
    if found is None:
        return False
    cls, name = found
    slots = {"latent_slot": slot, "time_slot": time_slot}
    trained: dict[str, Any] = {name: net} | {part: one for part, one in slots.items() if one is not None}
    if (folder / "model_index.json").is_file():
        for part, network in trained.items():
            draft = folder / f".{part}"
            network.save_pretrained(draft)
            for file in draft.iterdir():
                let_read(file)
                os.replace(file, folder / part / file.name)
            draft.rmdir()
        return True
    parts = trained | {"scheduler": scheduler} | ({} if start is None else {"start": start})
    if text is not None:
        pipe = copy(text.pipe)
        parts["scheduler"] = scheduler = text.shipped(scheduler)
        if "steps_offset" in scheduler.config:  # these pipelines ask for 1; our spacing of the steps does not use it
            scheduler.register_to_config(steps_offset=1)
        pipe.register_modules(**parts | {k: in_float32(part) for k, part in text.parts().items() if k not in parts})
    else:
        if space is not None:
            parts["vae"] = in_float32(space.vae)
        pipe = cls(**parts)
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        let_read(file)
    if cls.__module__.endswith(OWN):
        shutil.copyfile(sys.modules[cls.__module__].__file__ or "", folder / f"{OWN}.py")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": [OWN, cls.__name__]}, indent=2))
    return True


def stock_scheduler(scheduler: Any) -> Any:
    """The scheduler, or the one of diffusers that it extends."""
    stock: Any = next(kind for kind in type(scheduler).__mro__ if kind.__module__.startswith("diffusers."))
    return scheduler if type(scheduler) is stock else stock.from_config(scheduler.config)


def scheduler_settings(scheduler: Any) -> Any:
    """The configuration of the scheduler that diffusers has, as it is written to a folder."""
    return json.loads(stock_scheduler(scheduler).to_json_string())


def in_float32(part: Any) -> Any:
    """A frozen network that was kept in half precision, as a pipeline that is loaded without further words needs it."""
    half = isinstance(part, nn.Module) and any(p.dtype in (torch.float16, torch.bfloat16) for p in part.parameters())
    return deepcopy(part).float() if half else part
