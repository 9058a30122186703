"""Every method on a tiny Stable Diffusion 1.5, and trainers on captioned images."""

from pathlib import Path
from typing import Any

import torch
from small_runs import AdamW, Trainer, method_of
from tiny_pipelines import Captioned

from sparring.generators import Pretrained
from sparring.methods.method import Method
from sparring.recipes.compose import compose

SETTING = str(Path(__file__).with_name("captioned.yaml"))


def method(pipeline: Path, name: str, dtype: torch.dtype = torch.float32) -> Method:
    """A method that tunes the pipeline, a third of its captions dropped; from the same weights every time."""
    denoiser = Pretrained(str(pipeline), condition_dropout=0.3)
    assert denoiser.space is not None
    assert denoiser.text is not None
    for part in [denoiser.space.vae, *denoiser.text.encoders]:
        part.to(dtype)
    torch.manual_seed(0)
    made = method_of(compose(name, SETTING), denoiser)
    made.sample_steps = 1
    return made.to(dtype)


def trainer(out: Path, pipeline: Path, name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Trainer:
    """A trainer of a method on a dozen captioned images."""
    chosen = {"steps": 2, "batch_size": 4, "num_samples": 2, "tracker": None, "ema_decay": 0.9, "log_every": 1}
    chosen |= {"generator_optimizer": AdamW(lr=1e-3), "discriminator_optimizer": AdamW(lr=1e-3, betas=(0.5, 0.999))}
    return Trainer(method(pipeline, name, dtype), Captioned(dtype), out=out, **{**chosen, **settings})
