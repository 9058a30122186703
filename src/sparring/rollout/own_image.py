"""A denoiser's own final image, and one step of its sampler from that image noised again (FAIL)."""

from typing import Any

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser
from sparring.generators.loop import Walk
from sparring.networks.modes import eval_mode
from sparring.process import per_image


@torch.no_grad()
def own_image(denoiser: Denoiser, scheduler: Any, num_steps: int, eps: Tensor, condition: Condition) -> Tensor:
    """The sampler's final images [B, C, H, W] from standard normal noise `eps`, without a graph.

    Args:
        denoiser: what is sampled, in eval mode.
        scheduler: a deterministic diffusers scheduler for it; left as it is.
        num_steps: its steps.
        eps: [B, C, H, W] where the walk begins.
        condition: what the network is conditioned on.
    """
    walk = Walk(scheduler, num_steps, eps.device)

    def output(call: int, x: Tensor) -> Tensor:
        return denoiser.step_output(walk, condition, denoiser.predict, call, x)

    with eval_mode(denoiser.net):
        return walk.run(walk.noise(eps), output)


def step_from_image(denoiser: Denoiser, x_0: Tensor, eps: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
    """Images [B, C, H, W] noised to t, taken a step of the sampler to s < t, and denoised with the same eps.

    `x_t = alpha_t x_0 + sigma_t eps`, `x_s = alpha_s xh + sigma_s epsh`, and what comes back is `(x_s - sigma_s eps) /
    alpha_s`. If the prediction is right, that is x_0; of a flow it is `x_0 + k (v - (eps - x_0))` with the predicted
    velocity v and `k = (s - t) / (1 - s)` (FAIL, arXiv 2602.12155, official code). One network call with a graph.

    Args:
        denoiser: the network, its process and its prediction type.
        x_0: images.
        eps: the noise that they are noised with.
        t: [B] times.
        s: [B] times of the step's end, at which alpha is not 0.
        condition: what the network is conditioned on.
    """
    process = denoiser.process
    prediction = denoiser(process.add_noise(x_0, eps, t), t, condition)
    x_s = process.add_noise(prediction.x0, prediction.eps, s)
    return (x_s - per_image(process.sigma(s), eps) * eps) / per_image(process.alpha(s), x_0)
