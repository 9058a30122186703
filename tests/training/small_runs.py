"""Tiny networks, every method on them, and trainers on digits: what the tests of training share."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.backbones import SmallConvNet
from sparring.data import Digits, StoredImages
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Method
from sparring.process import VP, AdaptiveTimes, Uncertainty
from sparring.recipes.compose import compose
from sparring.runs.classes import make
from sparring.training import AdamW, Trainer

# Those that train on the network here and on digits. What takes other networks or data runs in the contracts only, as
# every recipe does: bands, codes, slopes (sCM's are differences, in float32), sources, noisy pairs, two kinds of
# conditions.
METHODS = (
    *("add", "adt", "d2o", "ddo", "diffusion", "diffusion-learned", "sadm", "sadm-frozen", "sid"),
    *("am_gan", "bigan", "diffusion_gan", "fastgan", "gan", "gan_em", "improved", "mine", "mmd_gan", "otm"),
    *("parallel_tempering", "projected_gan", "r3gan", "san", "slogan", "wgan", "ddgan", "rdgan"),
    *("consistency", "drifting", "progressive"),
    *("adt_turbo", "fail"),
)
OF_DENOISERS = [name for name in METHODS if "-" not in name and "generator" not in compose(name, "tiny")]
TUNING = [name for name in OF_DENOISERS if "latent" not in str(compose(name, "tiny"))]
VARIANTS: dict[str, dict[str, Any]] = {
    "diffusion-learned": {"times": AdaptiveTimes(bins=2), "weighting": Uncertainty()},
    "sadm-frozen": {"mode": "frozen"},
}


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
    """A method of a recipe on `tiny`, on a network of a few hundred weights, from the same weights every time."""
    torch.manual_seed(seed)
    composed = compose(name.partition("-")[0], "tiny")
    own = composed.get("generator")
    generator = make(own) if own is not None and net is None else Denoiser(net or TinyNet(), VP(), "v")
    return method_of(composed, generator, **{**deepcopy(VARIANTS.get(name, {})), **settings})


def method_of(composed: dict[str, Any], generator: Generator, **settings: Any) -> Method:
    """The method of a composed recipe on this generator."""
    chosen = {**composed["method"].get("init_args", {}), "generator": generator, **settings}
    return make({"class_path": composed["method"]["class_path"], "init_args": chosen})


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
