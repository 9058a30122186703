"""Rollouts: how a fake is made in training."""

from sparring.rollout.few_step import few_step
from sparring.rollout.one_step import (
    Noised,
    OneForAll,
    OneStep,
    denoising_error,
    denoising_loss,
    noise,
    one_step,
    standard_normal,
)
from sparring.rollout.posterior_step import PosteriorStep, posterior_step
from sparring.rollout.simulate import Path, coefficients, draw_path, simulate

__all__ = [
    "Noised",
    "OneForAll",
    "OneStep",
    "Path",
    "PosteriorStep",
    "coefficients",
    "denoising_error",
    "denoising_loss",
    "draw_path",
    "few_step",
    "noise",
    "one_step",
    "posterior_step",
    "simulate",
    "standard_normal",
]
