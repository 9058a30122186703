"""What the average of a run can do: its samples from fixed latents, and its denoising error on held-out images."""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.denoiser import Denoiser
from sparring.methods.method import denoising_error
from sparring.process.times import Uniform
from sparring.rollout import generate, one_step

NUM_HELD_OUT = 256


def samples(denoiser: Denoiser, data: ImageData, *, sampler: str, num_steps: int, n: int, seed: int) -> Tensor:
    """[n, C, H, W] images, always from the same latents and, of a conditional network, of one class after the other."""
    device = next(denoiser.parameters()).device
    labels = None
    if denoiser.conditional:
        labels = (torch.arange(n) % int(data.num_classes or 1)).to(device)
    return generate(
        denoiser,
        denoiser.process.scheduler(sampler, denoiser.prediction),
        num_steps,
        latents=Draws(seed, phase="samples", device=device).normal((n, *data.image_shape)),
        labels=labels,
        generator=torch.Generator(device).manual_seed(seed),
    )


@torch.no_grad()
def held_out_error(denoiser: Denoiser, data: ImageData, *, seed: int) -> float:
    """Mean squared error of the network's output on the same images, times and noise in every call; lower is better.

    The images are up to 256 of the holdout, or of the training set where the data set knows no holdout; times are
    uniform. It says how well the network denoises, which for a few-step student is not what its samples look like.
    """
    held_out = data.holdout() or data
    n = min(NUM_HELD_OUT, len(held_out))
    device = next(denoiser.parameters()).device
    labels = held_out.labels(n, seed)
    batch = Batch(
        held_out.images(n, seed).to(device),
        None if labels is None else labels.to(device),
        Draws(seed, phase="held out", device=device),
    )
    return float(denoising_error(denoiser, one_step(denoiser, batch, Uniform())).mean())
