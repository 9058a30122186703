"""One prediction of a few-step student at one of its own levels."""

from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.rollout.one_step import OneStep, noise


def few_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> OneStep:
    """One prediction of a few-step student: the level of each image is drawn from the student's own `levels` [N]."""
    index = batch.draws.integers(len(levels), (len(batch),))
    noised = noise(denoiser.process, batch, levels.to(batch.x_0.device)[index])
    return OneStep(noised, denoiser(noised.x_t, noised.t, batch.condition))
