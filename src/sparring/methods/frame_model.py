"""An image model of single frames, learned from clips whose frames lie in their channels."""

from typing import Any

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Condition, Denoiser
from sparring.methods.fitted_denoiser import BATCH, fit_denoiser
from sparring.process import Times
from sparring.rollout import Noised

MOST = 4000  # clips that are looked at


def of_frames(clips: Denoiser, channels: int) -> Denoiser:
    """A denoiser of single frames, untrained, with a network of the kind and size of that of clips.

    Raises:
        ValueError: that network has no configuration.
    """
    net: Any = clips.net
    config = getattr(net, "config", None)
    if config is None:
        raise ValueError(f"`frame_teacher`: a {type(net).__name__} has no configuration to make one of; give a run")
    made = type(net).from_config({**config, "in_channels": channels, "out_channels": channels})
    return Denoiser(made, clips.process, clips.prediction)


def some_frames(clips: Tensor, channels: int, draws: Draws, k: int) -> Tensor:
    """k different frames of each clip [B, F C, H, W] at random, [B k, C, H, W]."""
    frames = clips.unflatten(1, (-1, channels))
    chosen = draws.uniform(frames.shape[:2]).argsort(1)[:, :k]
    rows = torch.arange(len(clips), device=clips.device)
    return frames[rows[:, None], chosen].flatten(0, 1)


def noised_frames(denoiser: Denoiser, batch: Batch, frames: Tensor, times: Times) -> tuple[Noised, Condition]:
    """Frames [B k, C, H, W] of B clips with noise of their own at one level for those of a clip, and their condition.

    Args:
        denoiser: of single frames.
        batch: the clips, with their condition and draws.
        frames: k of each clip, one clip after the other.
        times: distribution of the level.
    """
    process, n = denoiser.process, len(batch)
    k = len(frames) // n
    t = times(process, batch.draws, n).repeat_interleave(k)
    eps = batch.draws.normal((n, k, *frames.shape[1:])).to(frames).flatten(0, 1)
    condition = batch.condition.repeat_interleave(k) if denoiser.takes_labels else None
    return Noised(frames, eps, t, process.add_noise(frames, eps, t)), condition


def fit_frames(denoiser: Denoiser, data: ImageData, channels: int, steps: int, seed: int) -> None:
    """Trains a denoiser on random frames of clips.

    Args:
        denoiser: of frames.
        data: clips.
        channels: of a frame.
        steps: updates.
        seed: of the frames and the noise.
    """
    n, device = min(len(data), MOST), denoiser.device
    clips, labels = data.images(n).to(device), data.labels(n)
    labels = None if labels is None else labels.to(device)

    def batch_of(draws: Draws) -> Batch:
        rows = draws.integers(n, (BATCH,))
        frames = some_frames(clips[rows], channels, draws, 1)
        return Batch(frames, None if labels is None else labels[rows], draws)

    fit_denoiser(denoiser, batch_of, steps, seed, "the image model of frames")
