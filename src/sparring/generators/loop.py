"""The sampling loop: a stock diffusers scheduler walked from pure noise to images.

It lies with the generators, left of `samplers`, because a generator samples itself (`denoiser.sample(16)`, the grids of
a run).
"""

import math
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sparring.process import initial_sample, set_timesteps


@torch.no_grad()
def walk(
    scheduler: Any,
    num_steps: int,
    latents: Tensor,
    network_output: Callable[[Tensor, Tensor], Tensor],
    *,
    generator: torch.Generator | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The scheduler's sample [B, c, h, w] after `num_steps` steps from standard normal latents [B, c, h, w].

    Args:
        scheduler: a diffusers scheduler; its timesteps are set here.
        num_steps: sampler steps; one network call each (Heun: two, but for the last step).
        latents: standard normal noise.
        network_output: the network's raw output for the scheduler's sample and timestep.
        generator: source of the noise that stochastic schedulers add on the way.
        watch: called with the state before the first and after every step.
    """
    extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    set_timesteps(scheduler, num_steps, latents.device)
    x = initial_sample(scheduler, latents)
    if watch is not None:
        watch(x)
    for timestep in scheduler.timesteps:
        x = scheduler.step(network_output(x, timestep), timestep, x, return_dict=False, **extra)[0]
        if watch is not None:
            watch(x)
    return x


def rows_at_once(x: Tensor, pixels: int = 1) -> int:
    """How many rows of x [n, c, h, w] pass through a network at once by default: 256, or 2^22 pixels (our choice).

    Args:
        x: images or latents.
        pixels: of an image per place of x.
    """
    return max(1, min(256, 2**22 // (pixels * x.shape[-2] * x.shape[-1])))


def normal_rows(n: int, shape: tuple[int, ...], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`torch.randn((n, *shape), generator=generator)` bit for bit, `size` rows at a time, without holding them all.

    torch fills a tensor sixteen numbers after sixteen; if their count is no multiple, it draws the last sixteen again.
    So blocks hold a multiple of sixteen rows, and the last one takes up the rest.
    """
    block, first = math.lcm(size, 16), 0
    while first < n:
        rows = block if n - first >= 2 * block else n - first
        yield from torch.randn((rows, *shape), generator=generator).split(size)
        first += rows
