"""The floor of a training step and its peers, around the same network: two well-known loops."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

LEARNING_RATE = 1e-4
LUCIDRAINS = "denoising_diffusion_pytorch"


def bare_loop(net: nn.Module, images: Tensor, precision: str) -> Callable[[], None]:
    """The floor: forward, squared error, backward, AdamW, on one batch that is ready; no noise, no clipping, no EMA."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, fused=True)
    times = torch.randint(0, 1000, (len(images),), device=images.device)
    target = torch.randn_like(images)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = net(images, times).sample
        F.mse_loss(output.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def diffusers_loop(net: nn.Module, images: Tensor, precision: str) -> Callable[[], None]:
    """The inner loop of diffusers' examples/unconditional_image_generation, with its defaults, no progress bar."""
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
    noiser: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    averaged: dict[str, Any] = {"model_cls": UNet2DModel, "model_config": net.config}
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, **averaged)
    ema.to(accelerator.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=1_000_000)
    model, optimizer, rate = accelerator.prepare(net, optimizer, rate)
    model.train()

    def step() -> None:
        noise = torch.randn_like(images)
        timesteps = torch.randint(0, noiser.config.num_train_timesteps, (len(images),), device=images.device)
        noisy = noiser.add_noise(images, noise, timesteps)
        with accelerator.accumulate(model):
            output = model(noisy, timesteps).sample
            loss = F.mse_loss(output.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.step(model.parameters())
        loss.detach().item()  # the example logs it in every step

    return step


@contextmanager
def accelerate_anew() -> Iterator[None]:
    """Lets the peers ask accelerate for a precision of their own: it keeps one for all of a process."""
    AcceleratorState._reset_state(True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(True)


class Wrapped(nn.Module):
    """A UNet2DModel with the attributes that denoising-diffusion-pytorch asks of its networks."""

    self_condition = False
    random_or_learned_sinusoidal_cond = False

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.channels = self.out_dim = net.config.in_channels  # type: ignore[union-attr]

    def forward(self, x: Tensor, time: Tensor, x_self_cond: None = None) -> Tensor:
        return self.net(x, time).sample


def lucidrains_loop(net: nn.Module, images: Tensor, precision: str, folder: Path) -> Callable[[int], None]:
    """Steps of denoising-diffusion-pytorch's `Trainer.train`, with its defaults; it gets its images from memory.

    Its own reading of files, with a process per core, is left out: its Trainer is shown 100 empty files at the start.

    Raises:
        ImportError: the package is not installed.
    """
    package = lucidrains()
    size = images.shape[-1]
    diffusion = package.GaussianDiffusion(Wrapped(net), image_size=size, objective="pred_v", beta_schedule="cosine")
    files = folder / "no-images"
    files.mkdir()
    for i in range(100):
        (files / f"{i}.png").touch()
    settings: dict[str, Any] = dict(train_batch_size=len(images), train_num_steps=0, num_samples=1)
    settings |= dict(results_folder=str(folder / "results"), save_and_sample_every=10**9, calculate_fid=False)
    settings |= dict(amp=precision == "bf16", mixed_precision_type="bf16")
    trainer = package.Trainer(diffusion.to(images.device), str(files), train_lr=LEARNING_RATE, **settings)
    trainer.accelerator.print = lambda *_: None  # "training complete", at the end of each round
    trainer.dl = forever((images + 1) / 2)

    def steps(n: int) -> None:
        trainer.train_num_steps += n
        trainer.train()

    return steps


def forever(images: Tensor) -> Iterator[Tensor]:
    while True:
        yield images


def lucidrains() -> Any:
    """denoising-diffusion-pytorch without its progress bar, also where there is no torchvision.

    It needs torchvision to read and to save pictures, which does not happen here: a stand-in lets it be imported.

    Raises:
        ImportError: it is not installed.
    """
    stands_in = find_spec("torchvision") is None
    if stands_in:
        sys.modules["torchvision"] = MagicMock()
    try:
        package = import_module(LUCIDRAINS)
    finally:
        if stands_in:
            del sys.modules["torchvision"]
    module: Any = sys.modules[f"{LUCIDRAINS}.{LUCIDRAINS}"]
    bar = module.tqdm
    module.tqdm = lambda *_, **__: bar(disable=True)
    return package
