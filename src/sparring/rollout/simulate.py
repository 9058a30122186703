"""A simulated sampler with a bounded backward path (ADT, arXiv 2504.11423)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.generators.loop import Walk
from sparring.generators.predictor import ClassifierFree, wrapped
from sparring.networks.modes import eval_mode
from sparring.process import scheduler_input, set_timesteps
from sparring.process.schedulers import NOISY


@dataclass(frozen=True)
class Path:
    """The part of an inference path that a rollout walks: from step `start` on; `grad_steps` carry gradient."""

    start: int
    grad_steps: tuple[int, ...]


def draw_path(
    draws: Draws,
    num_steps: int,
    num_grad_steps: int,
    *,
    choose: Literal["random", "last"] = "random",
    start: Literal["uniform", "noise"] = "uniform",
) -> Path:
    """Draws a path for a whole batch: the same for all of its rows, so that all take the same number of steps.

    Args:
        draws: random numbers of the step.
        num_steps: length m of the inference path.
        num_grad_steps: k; all steps carry gradient if fewer than k are walked.
        choose: which k of the steps that are walked: a random subset, or the last.
        start: "uniform" draws the first step from the path, "noise" walks all of it.
    """
    first = draws.one_integer(num_steps) if start == "uniform" else 0
    num_run = num_steps - first
    k = min(num_grad_steps, num_run)
    if choose == "random":
        return Path(first, tuple(first + i for i in draws.subset(num_run, k)))
    return Path(first, tuple(range(num_steps - k, num_steps)))


def simulate(
    denoiser: Denoiser,
    batch: Batch,
    scheduler: Any,
    *,
    num_steps: int,
    start: int = 0,
    grad_steps: Sequence[int] | None = None,
    grad_scales: Sequence[float] | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Runs the sampler from a noised real image to the end, with a bounded backward path (ADT, arXiv 2504.11423).

    The input of the network is detached, so the gradient crosses the network once per call in `grad_steps`, and no
    product of network Jacobians appears; all other calls run without a graph. What remains is the sampler itself, which
    is affine in its state and in the network's outputs f_i. So the gradient is exactly `sum_i c_i df_i`, where c_i is
    the derivative of the final image with respect to f_i: `c_i = b_i prod_{j>i} a_j` for a first-order scheduler with
    steps `x <- a_i x + b_i f_i`, j running over the later steps.

    The network runs in eval mode, as it does in a sampler: without dropout.

    Multistep schedulers keep earlier outputs, and gradient passes through these too, at no cost: no call is repeated.
    (Cut off, the extrapolation of DPM-Solver++ would lose its balancing term in every step: over 20 steps of a
    rectified flow the coefficients come out five times too large.) Both calls of a Heun step carry gradient, or none.

    Args:
        denoiser: the network, its process and its prediction type.
        batch: real images, labels and draws.
        scheduler: a deterministic diffusers scheduler for the denoiser (`process.scheduler(...)`); left as it is.
        num_steps: length of the inference path (number of sampler steps from pure noise).
        start: step on the path to begin at: 0 is the noisiest level, `num_steps - 1` the last step before the image.
        grad_steps: steps on the path, in [start, num_steps), that carry gradient; all of them when None.
        grad_scales: one for each network call of the whole path: factors of the gradients that enter the calls.
        guidance: scale w of classifier-free guidance, see `ClassifierFree`; 1 is none.

    Returns:
        [B, C, H, W] the sampler's final image, or latent if the denoiser works on latents; differentiable with
        respect to the denoiser's parameters.

    Raises:
        ValueError: `start` outside the path.
    """
    walk = Walk(scheduler, num_steps, batch.x_0.device, start)
    predict = wrapped(denoiser, [ClassifierFree(guidance)])

    def output(call: int, x: Tensor) -> Tensor:
        carries = torch.is_grad_enabled() and (grad_steps is None or call // walk.scheduler.order in grad_steps)
        with torch.set_grad_enabled(carries):
            output = denoiser.step_output(walk, batch.condition, predict, call, x)
        if carries and grad_scales is not None:
            output.register_hook(lambda grad, scale=grad_scales[call]: grad * scale)
        return output

    with eval_mode(denoiser.net):
        eps = denoiser.process.kernel(batch.draws, tuple(batch.x_0.shape)).to(batch.x_0)
        return walk.run(walk.noised(batch.x_0, eps), output)


def coefficients(scheduler: Any, num_steps: int, start: int = 0) -> list[float]:
    """c_i of `simulate`: the derivative of the final image with respect to each network output of the whole path.

    Found by walking the scheduler itself, which is affine with the same numbers at each pixel, over a single pixel; 0
    for the calls before `start`.
    """
    walk = Walk(scheduler, num_steps, start=start)
    outputs = [torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True) for _ in walk.timesteps]

    def output(call: int, x: Tensor) -> Tensor:
        scheduler_input(walk.scheduler, x.detach(), walk.timesteps[call])  # some schedulers warn without
        return outputs[call]

    with torch.enable_grad():
        walk.run(torch.zeros(1, 1, 1, 1, dtype=torch.float64), output).backward()
    return [0.0 if output.grad is None else output.grad.item() for output in outputs]


def equalised_scales(c: Sequence[float]) -> list[float]:
    """Factors mean|c| / |c_i| that give all network calls the same share of the gradient (ours).

    The mean runs over the coefficients other than 0 (below 1e-6 of the largest counts as 0), whose factor is 1.
    """
    sizes = [abs(x) for x in c]
    floor = 1e-6 * max(sizes)
    counted = [size for size in sizes if size > floor]
    return [sum(counted) / len(counted) / size if size > floor else 1.0 for size in sizes]


def deterministic_scheduler(denoiser: Denoiser, name: str, num_steps: int, num_grad_steps: int) -> Any:
    """The scheduler of that name for `simulate`.

    Raises:
        ValueError: one that adds noise on its way, more steps with gradient than steps, a path that it cannot walk, or
            a network with a latent z.
    """
    if denoiser.slot is not None:
        raise ValueError("a network that is conditioned on a latent z has no sampler to simulate: start from another")
    if num_steps < 1:
        raise ValueError(f"`num_steps={num_steps}` must be at least 1")
    if not 1 <= num_grad_steps <= num_steps:
        raise ValueError(f"`num_grad_steps={num_grad_steps}` must lie between 1 and `num_steps={num_steps}`")
    if name in NOISY:
        raise ValueError(f"`scheduler={name}` adds noise on its way; simulate ddim, dpm, unipc, euler or heun")
    scheduler = denoiser.process.scheduler(name, denoiser.prediction)
    set_timesteps(scheduler, num_steps)
    return scheduler
