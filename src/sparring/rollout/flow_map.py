"""A step of a few-step flow map, from a noise level to the next cleaner one, and real images at that level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.process import Process, per_image, set_timesteps
from sparring.rollout.one_step import standard_normal


@dataclass
class FlowMapStep:
    """Images [B, C, H, W] at levels s > t [B]: where the map starts, where it leads, and real ones there."""

    x_s: Tensor
    x_t_fake: Tensor
    x_t_real: Tensor
    s: Tensor
    t: Tensor


def sampler_levels(process: Process, scheduler: str, num_steps: int, prediction: str) -> Tensor:
    """[num_steps + 1] rising times that a diffusers scheduler visits in so many calls, with 0, the clean end, before.

    Args:
        process: the noising process.
        scheduler: name, such as "ddim".
        num_steps: network calls.
        prediction: what the network predicts.
    """
    stepper = process.scheduler(scheduler, prediction)  # type: ignore[arg-type]
    set_timesteps(stepper, num_steps)
    return torch.cat([torch.zeros(1), process.t_from_model_time(stepper.timesteps.float()).flip(0)])


def flow_map(denoiser: Denoiser, batch: Batch, levels: Tensor) -> FlowMapStep:
    """One deterministic step (DDIM's; of a flow, Euler's) between neighbouring levels, drawn for each row.

    The noise of the real images is not that of the start. From the noisiest level alone the start is pure noise, and
    nothing of the images is in it.

    Args:
        denoiser: its prediction at s is carried on to t.
        batch: real images; their own noisy versions are the starts.
        levels: times [N + 1] that rise from 0; see `sampler_levels`.
    """
    process, levels = denoiser.process, levels.to(batch.x_0.device)
    index = batch.draws.integers(len(levels) - 1, (len(batch),))
    s, t = levels[index + 1], levels[index]
    x_s = process.add_noise(batch.x_0, standard_normal(batch), s)
    prediction = denoiser(x_s, s, batch.condition)
    alpha, sigma = per_image(process.alpha(t), x_s), per_image(process.sigma(t), x_s)
    fake = alpha * prediction.x0 + sigma * prediction.eps
    return FlowMapStep(x_s, fake, process.add_noise(batch.x_0, standard_normal(batch), t), s, t)
