"""Sampling from pure noise with a stock diffusers scheduler."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sparring.generators import Denoiser
from sparring.process import initial_sample, set_timesteps
from sparring.samplers.guidance import network_output


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    scheduler: Any,
    num_steps: int,
    *,
    latents: Tensor,
    condition: Tensor | list[str] | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Samples from pure noise with a diffusers scheduler; latents are to be decoded by `denoiser.decode`.

    Args:
        denoiser: the network, its process and its prediction type.
        scheduler: a diffusers scheduler, configured for the denoiser.
        num_steps: sampler steps; one network call each (Heun: two, but for the last step).
        latents: [n, C, H, W] standard normal noise.
        condition: [n] classes, or n captions, of a conditional network.
        guidance: scale of classifier-free guidance; 1 is none, and any other doubles the work.
        generator: source of the noise that stochastic schedulers add on the way.
        batch_size: images that pass through the network at once; see `rows_at_once` when None.
        watch: called with the state [b, C, H, W] of a batch before the first and after every step.

    Returns:
        [n, C, H, W] images, nominally in [-1, 1] (not clamped), or latents of images; in the precision of `latents` (at
        least float32).
    """
    training = denoiser.training
    denoiser.eval()
    extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    finished = []
    size = batch_size or rows_at_once(latents, denoiser.factor**2)
    for first in range(0, len(latents), size):
        rows = slice(first, first + size)
        set_timesteps(scheduler, num_steps, latents.device)
        x = initial_sample(scheduler, latents[rows])
        told = denoiser.condition(None if condition is None else condition[rows], x)
        if watch is not None:
            watch(x)
        for timestep in scheduler.timesteps:
            output = network_output(denoiser, scheduler, x, timestep, told, guidance)
            x = scheduler.step(output, timestep, x, return_dict=False, **extra)[0]
            if watch is not None:
                watch(x)
        finished.append(x)
    denoiser.train(training)
    return torch.cat(finished)


def rows_at_once(x: Tensor, pixels: int = 1) -> int:
    """How many rows of x [n, c, h, w] pass through a network at once where nobody says: 256, or 2^22 pixels (ours).

    Args:
        x: images or latents.
        pixels: of an image per place of x.
    """
    return max(1, min(256, 2**22 // (pixels * x.shape[-2] * x.shape[-1])))
