"""Every method on a tiny Stable Diffusion 1.5, and trainers on captioned images."""

from pathlib import Path
from typing import Any

import torch
from small_runs import AdamW, Trainer, backbone
from tiny_pipelines import Captioned

from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
from sparring.generators import Pretrained
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.method import Method
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM

METHODS = ("diffusion", "sadm", "adt", "ddo", "add")


def method(pipeline: Path, name: str, dtype: torch.dtype = torch.float32) -> Method:
    """A method that tunes the pipeline, a third of its captions dropped; judges from the same weights every time."""
    denoiser = Pretrained(str(pipeline), condition_dropout=0.3)
    assert denoiser.space is not None
    assert denoiser.text is not None
    for part in [denoiser.space.vae, *denoiser.text.encoders]:
        part.to(dtype)
    torch.manual_seed(0)
    rgb = backbone(in_channels=3)
    made: Method
    if name == "diffusion":
        made = Diffusion(denoiser)
    elif name == "sadm":
        made = SADM(denoiser, StructureDiscriminator(encoder=rgb, structure_batch=2), structure_weight=1.0)
    elif name == "adt":
        settings = {"num_steps": 2, "num_grad_steps": 1, "adversarial_weight": 0.5}
        made = ADT(denoiser, SiameseDiscriminator(backbone=rgb, width=8), warmup_steps=0, ramp_steps=0, **settings)
    elif name == "ddo":
        made = DDO(denoiser, num_fakes=8, num_steps=1)
    else:
        made = ADD(denoiser, ProjectedDiscriminator(backbone=rgb, width=8), num_student_steps=2, r1_gamma=0.1)
    made.sample_steps = 1
    return made.to(dtype)


def trainer(out: Path, pipeline: Path, name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Trainer:
    """A trainer of a method on a dozen captioned images."""
    chosen = {"steps": 2, "batch_size": 4, "num_samples": 2, "tracker": None, "ema_decay": 0.9, "log_every": 1}
    chosen |= {"generator_optimizer": AdamW(lr=1e-3), "discriminator_optimizer": AdamW(lr=1e-3, betas=(0.5, 0.999))}
    return Trainer(method(pipeline, name, dtype), Captioned(dtype), out=out, **{**chosen, **settings})
