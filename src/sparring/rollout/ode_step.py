"""One step of the probability-flow ODE by a denoiser, with or without guidance: what teachers of few steps show."""

from dataclasses import replace

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser, Prediction
from sparring.process import Process, per_image


def ddim(prediction: Prediction, s: Tensor) -> Tensor:
    """`x_s = alpha_s xhat + sigma_s epshat` [B, C, H, W] at times s [B]: DDIM without noise, of a flow Euler's step.

    Gradient passes. If s is the time of the prediction, x_s is x_t.
    """
    process = prediction.process
    x_0 = per_image(process.alpha(s), prediction.x0) * prediction.x0
    return x_0 + per_image(process.sigma(s), prediction.eps) * prediction.eps


def image_of_step(process: Process, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The clean image [B, C, H, W] whose single DDIM step from x_t at t leads to x_s at s < t [B].

    `(x_s - r x_t) / (alpha_s - r alpha_t)` with r = sigma_s / sigma_t. Source: progressive distillation (arXiv
    2202.00512).
    """
    ratio = process.sigma(s) / process.sigma(t)
    scale = process.alpha(s) - ratio * process.alpha(t)
    return (x_s - per_image(ratio, x_t) * x_t) / per_image(scale, x_t)


@torch.no_grad()
def guided(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, guidance: float = 1.0) -> Prediction:
    """The prediction of a teacher, with classifier-free guidance of a scale other than 1; without gradient."""
    prediction = denoiser(x_t, t, condition)
    if guidance == 1:
        return prediction
    none = denoiser(x_t, t, denoiser.unconditional(condition)).output
    return replace(prediction, output=none + guidance * (prediction.output - none))


def check_clean_end(denoiser: Denoiser) -> None:
    """Raises ValueError for a network whose prediction is not the image itself where there is no noise."""
    if denoiser.prediction == "x0":
        raise ValueError(
            "`prediction=x0`: what is to be the same along a path has to be the image at its clean end, and this "
            "network may predict another there: start from one that predicts v or eps"
        )


def check_guidance(denoiser: Denoiser, guidance: float) -> None:
    """Raises ValueError if the teacher cannot be guided by so much."""
    if guidance < 0:
        raise ValueError(f"`guidance={guidance}` must be 0 or more; 1 is none")
    if guidance != 1 and not denoiser.takes_guidance:
        raise ValueError(
            f"`guidance={guidance}`: the teacher takes neither captions nor a class that says none; leave it at 1"
        )
