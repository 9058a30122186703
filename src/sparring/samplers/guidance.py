"""The network's output at one step of a sampler, with classifier-free guidance."""

from typing import Any

import torch
from torch import Tensor

from sparring.generators import Condition, Denoiser
from sparring.generators.condition import joined
from sparring.generators.prediction import at_least_float32
from sparring.process import scheduler_input


def network_output(
    denoiser: Denoiser, scheduler: Any, x: Tensor, timestep: Tensor, condition: Condition, guidance: float = 1.0
) -> Tensor:
    """The network's raw output, at least float32, for the scheduler's sample `x`; no gradient passes to `x`.

    With a guidance w other than 1 it is f(none) + w (f(condition) - f(none)), both of one pass over a joined batch
    (Ho and Salimans, arXiv 2207.12598, in the form of diffusers' pipelines). Gradient passes to f(condition) alone
    (ours), and then f(none) has a pass of its own without a graph, which halves the memory of the step.
    """
    x_in, times = scheduler_input(scheduler, x.detach(), timestep), timestep.expand(len(x))
    if guidance == 1.0:
        return at_least_float32(denoiser.network(x_in, times, condition))
    unconditional = denoiser.unconditional(condition)
    if torch.is_grad_enabled():
        told = denoiser.network(x_in, times, condition)
        with torch.no_grad():
            none = denoiser.network(x_in, times, unconditional)
    else:
        both = joined(unconditional, condition)
        none, told = denoiser.network(x_in.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
    none, told = at_least_float32(none), at_least_float32(told)
    return none + guidance * (told - none)
