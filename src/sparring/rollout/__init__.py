"""Rollouts: how a fake is made in training."""

from sparring.rollout.compared import DiscriminatorInput, real_and_fake
from sparring.rollout.few_step import few_step
from sparring.rollout.from_noise import check_begins_in_noise, from_noise, student_levels, student_sampler
from sparring.rollout.one_step import (
    Noised,
    OneForAll,
    OneStep,
    denoising_error,
    denoising_loss,
    noise,
    noise_at,
    one_step,
    standard_normal,
)
from sparring.rollout.own_calls import Call, own_calls
from sparring.rollout.own_image import own_image, step_from_image
from sparring.rollout.own_steps import falling_steps, own_steps
from sparring.rollout.posterior_step import PosteriorStep, posterior_step
from sparring.rollout.restoration_step import RestorationStep, fidelity, restoration_step
from sparring.rollout.simulate import (
    Path,
    coefficients,
    deterministic_scheduler,
    draw_path,
    equalised_scales,
    simulate,
)

__all__ = [
    "check_begins_in_noise",
    "Call",
    "DiscriminatorInput",
    "Noised",
    "OneForAll",
    "OneStep",
    "Path",
    "PosteriorStep",
    "RestorationStep",
    "coefficients",
    "denoising_error",
    "denoising_loss",
    "deterministic_scheduler",
    "draw_path",
    "equalised_scales",
    "falling_steps",
    "few_step",
    "fidelity",
    "from_noise",
    "noise",
    "noise_at",
    "one_step",
    "own_steps",
    "own_calls",
    "own_image",
    "posterior_step",
    "real_and_fake",
    "restoration_step",
    "simulate",
    "standard_normal",
    "step_from_image",
    "student_levels",
    "student_sampler",
]
