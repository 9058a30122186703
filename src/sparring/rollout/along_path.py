"""How a denoiser's clean image changes along a path of its process: the total derivative in time."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser, Prediction
from sparring.networks.derivatives import jvp
from sparring.process import per_image


def clean_image_along(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    velocity: Tensor,
    condition: Condition = None,
    *,
    mode: Literal["forward", "reverse"] = "forward",
) -> tuple[Tensor, Tensor]:
    """The clean image xhat(x_t, t) [B, C, H, W] and `d xhat / dt = d_x xhat . velocity + d_t xhat`; without gradient.

    The image is `a(t) x_t + b(t) output`, and the network takes `c(t) x_t` and a time. The slopes of a, b, c
    and of that time are the process's own (`Process.rate`), because a process rounds times to its levels.

    Args:
        denoiser: the network with its process.
        x_t: noisy images [B, C, H, W].
        t: their times [B].
        velocity: dx_t / dt along the path, [B, C, H, W].
        condition: of the network.
        mode: how the derivative of the network is computed, see `jvp`.
    """
    process = denoiser.process

    def image(u: Tensor, x: float, output: float) -> Tensor:
        """What x_t = x and that output mean at times u."""
        like = torch.ones_like(u)
        return Prediction(output * like, x * like, u, denoiser.prediction, process).x0

    def clean(x: Tensor, time: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        output = denoiser.network(per_image(c, x) * x, time, condition)
        return per_image(a, x) * x + per_image(b, x) * output.to(x)

    functions: list[Callable[[Tensor], Tensor]] = [
        process.model_time,
        lambda u: image(u, 1.0, 0.0),
        lambda u: image(u, 0.0, 1.0),
        lambda u: process.model_input(torch.ones_like(u), u),
    ]
    at, along = [x_t, *(f(t) for f in functions)], [velocity, *(process.rate(f, t) for f in functions)]
    return jvp(clean, at, along, mode=mode)
