"""A small denoiser that a method trains for itself before the first step: the image model of frames, that of views."""

from collections.abc import Callable

import torch

from sparring.data import Batch, Draws
from sparring.data.waiting import told
from sparring.generators import Denoiser
from sparring.rollout import denoising_loss, noise_at

BATCH, RATE = 64, 2e-3


@torch.enable_grad()
def fit_denoiser(denoiser: Denoiser, batch_of: Callable[[Draws], Batch], steps: int, seed: int, what: str) -> None:
    """Ordinary denoising training of the network as it is: AdamW, rate 2e-3 with a cosine, no average.

    Args:
        denoiser: what is trained.
        batch_of: the batch of a step, of `BATCH` rows or so, by its random numbers.
        steps: updates.
        seed: of batches and noise.
        what: it is called in the line that shows progress.
    """
    optimizer = torch.optim.AdamW(denoiser.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in told(range(steps), f"training {what}", steps):
        batch = batch_of(Draws(seed, step=step, phase=what, device=denoiser.device))
        noised = noise_at(denoiser.process, batch, denoiser.process.default_times())
        optimizer.zero_grad()
        denoising_loss(denoiser, noised, batch.condition, None).backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
