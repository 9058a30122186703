"""All calls of a few-step student from pure noise, as its sampler makes them (ADT-turbo)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.networks.modes import eval_mode
from sparring.networks.precision import at_least_float32
from sparring.process import initial_sample, scheduler_name
from sparring.rollout.one_step import standard_normal


@dataclass
class Call:
    """A network call of a student: the state x [B, C, H, W] that it saw, times t [B], and the predicted image."""

    x: Tensor
    t: Tensor
    x_0: Tensor


def own_calls(
    denoiser: Denoiser,
    batch: Batch,
    scheduler: Any,
    *,
    num_calls: int | None = None,
    grad_calls: int | None = None,
    stop: bool = False,
) -> list[Call]:
    """The calls of a student on its own states: each predicts an image, which is noised to the level of the next.

    LCM noises with fresh noise, DDIM (of a flow or EDM: Euler) with the noise that the call predicted. The network's
    input is detached, so that no product of network Jacobians appears; what is left between the calls is affine. For a
    flow that predicts its velocity the last image has the derivatives `-t_i prod_{j>i} (1 - t_j)` in call i by LCM, and
    `t_{i+1} - t_i` by Euler; for a network that predicts the image only the last call counts by LCM.

    The network runs in eval mode. Random numbers are the batch's.

    Args:
        denoiser: the student.
        batch: its number of rows and conditions count, and the shape of what is diffused.
        scheduler: LCM's or DDIM's for the denoiser, on its grid.
        num_calls: the first so many of the calls; all when None.
        grad_calls: the last so many of these carry gradient; all when None.
        stop: the states between the calls carry none, so that each predicted image depends on one call.
    """
    process, rows = denoiser.process, len(batch)
    levels = process.t_from_model_time(scheduler.timesteps.float()).to(batch.x_0.device)[:num_calls]
    fresh = scheduler_name(scheduler) == "lcm"
    x, calls = initial_sample(scheduler, standard_normal(batch)), []
    with eval_mode(denoiser.net):
        for i, level in enumerate(levels):
            t = level.expand(rows)
            carries = torch.is_grad_enabled() and (grad_calls is None or i >= len(levels) - grad_calls)
            with torch.set_grad_enabled(carries):
                output = denoiser.network(process.model_input(x.detach(), t), process.model_time(t), batch.condition)
            prediction = Prediction(at_least_float32(output), at_least_float32(x), t, denoiser.prediction, process)
            calls.append(Call(x.detach(), t, prediction.x0))
            if i + 1 < len(levels):
                eps = standard_normal(batch) if fresh else prediction.eps
                x = process.add_noise(prediction.x0, eps, levels[i + 1].expand(rows))
                x = x.detach() if stop else x
    return calls
