"""Tiny networks, every method on them, and trainers on digits: what the tests of training share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.backbones import SmallConvNet
from sparring.data import Digits, StoredImages
from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.method import Method
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM
from sparring.process import VP
from sparring.training import AdamW, Trainer

METHODS = ("diffusion", "sadm", "sadm-frozen", "adt", "ddo", "add")
TWO_PLAYERS = ("sadm", "adt", "add")


class TinyNet(nn.Module):
    """A denoising network of a few hundred weights with a time embedding."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.time = nn.Linear(1, width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1)])
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        embedded = self.time(time[:, None].to(x.dtype) / 1000)
        x = torch.tanh(self.first(x) + embedded[:, :, None, None])
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.last(x)


def backbone(**settings: Any) -> SmallConvNet:
    """A small random backbone."""
    return SmallConvNet(**{"in_channels": 1, "widths": (4, 8), "pretrain": "none", **settings})


def method(name: str, net: nn.Module | None = None, seed: int = 0, **settings: Any) -> Method:
    """A method on a tiny network, from the same weights every time."""
    torch.manual_seed(seed)
    denoiser = Denoiser(net or TinyNet(), VP(), "v")
    if name == "diffusion":
        return Diffusion(denoiser, **settings)
    if name.startswith("sadm"):
        size = 4 if name == "sadm-fixed" else settings.pop("structure_batch", None)
        judge = StructureDiscriminator(encoder=backbone(), structure_batch=size)
        mode = "frozen" if name == "sadm-frozen" else "adversarial"
        return SADM(denoiser, judge, **{"mode": mode, "structure_weight": 1.0, **settings})
    if name == "adt":
        judge = SiameseDiscriminator(backbone=backbone(), width=8)
        chosen = {"num_steps": 3, "num_grad_steps": 2, "warmup_steps": 0, "ramp_steps": 0, "adversarial_weight": 0.5}
        return ADT(denoiser, judge, **{**chosen, **settings})
    if name == "ddo":
        return DDO(denoiser, **{"num_fakes": 48, "num_steps": 2, **settings})
    return ADD(denoiser, ProjectedDiscriminator(backbone=backbone(), width=8), **{"r1_gamma": 0.1, **settings})


class ExactDigits(StoredImages):
    """Digits in float64, for comparisons that rounding must not blur."""

    def __init__(self) -> None:
        digits = Digits()
        super().__init__(digits.images(), digits.labels(), name="digits")

    def __getitem__(self, indices: Any) -> tuple[Tensor, Tensor | None]:
        images, labels = super().__getitem__(indices)
        return images.double(), labels


def trainer(out: Path, name: str = "diffusion", **settings: Any) -> Trainer:
    """A trainer of a method on digits; `settings` are those of the trainer, and `method` and `data`."""
    chosen = {"steps": 6, "batch_size": 16, "num_samples": 4, "tracker": None, "ema_decay": 0.9, "log_every": 2}
    chosen |= {"generator_optimizer": AdamW(lr=1e-2), "discriminator_optimizer": AdamW(lr=1e-2, betas=(0.5, 0.999))}
    chosen |= settings
    given = chosen.pop("method", None) or method(name)
    return Trainer(given, chosen.pop("data", None) or Digits(), out=out, **chosen)


def checkpoint(run: Path, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """A checkpoint as written, without what a clock decides."""
    from sparring.runs.checkpoint import read_checkpoint

    tensors, state = read_checkpoint(run / "checkpoints" / f"{step:06d}")
    return tensors, {name: value for name, value in state.items() if name not in ("seconds", "digest")}


def assert_same_checkpoint(one: Path, other: Path, step: int) -> None:
    """Bit for bit the same weights, averages, moments, buffers and counters."""
    (tensors, state), (tensors_2, state_2) = checkpoint(one, step), checkpoint(other, step)
    assert tensors.keys() == tensors_2.keys()
    for group in tensors:
        assert tensors[group].keys() == tensors_2[group].keys()
        for name, tensor in tensors[group].items():
            assert torch.equal(tensor, tensors_2[group][name]), f"{group}: {name}"
    assert state == state_2
