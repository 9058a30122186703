"""How a fake is made from real images: one step, a posterior step, a simulated sampler, a few-step student."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.condition import Condition, joined
from sparring.data import Batch, Draws
from sparring.denoiser import Denoiser, Prediction, at_least_float32
from sparring.process import Process, initial_sample, per_image, scheduler_input, set_timesteps
from sparring.process.times import Draws as RowDraws
from sparring.process.times import Times


@dataclass
class Noised:
    """Real images or latents at a noise level: `x_t = alpha(t) x_0 + sigma(t) eps`, [B, C, H, W], `t` [B] in (0, 1]."""

    x_0: Tensor
    eps: Tensor
    t: Tensor
    x_t: Tensor


@dataclass
class OneStep:
    """A noised batch and the denoiser's prediction for it; `prediction.x0` is index-aligned with `noised.x_0`."""

    noised: Noised
    prediction: Prediction


@dataclass
class PosteriorStep:
    """Two neighbouring noise levels s < t of the same images, and the denoiser's draw of x_s from x_t."""

    x_s_real: Tensor
    x_s_fake: Tensor
    x_t: Tensor
    s: Tensor
    t: Tensor
    prediction: Prediction


def noise(process: Process, batch: Batch, t: Tensor) -> Noised:
    """Noises what is diffused of a batch at times `t` [B], with noise from `batch.draws`."""
    eps = standard_normal(batch)
    return Noised(x_0=batch.x_0, eps=eps, t=t, x_t=process.add_noise(batch.x_0, eps, t))


def standard_normal(batch: Batch) -> Tensor:
    """Noise of the shape and precision of what is diffused of a batch, from its draws."""
    return batch.draws.normal(tuple(batch.x_0.shape)).to(batch.x_0)


def one_step(denoiser: Denoiser, batch: Batch, times: Times) -> OneStep:
    """One prediction of the clean image at a drawn noise level, as in ordinary denoising training (fake of SADM).

    In training, `denoiser.condition_dropout` of the labels or captions are left out, for guidance.
    """
    noised = noise(denoiser.process, batch, times(denoiser.process, batch.draws, len(batch)))
    return OneStep(noised, denoiser(noised.x_t, noised.t, denoiser.dropped(batch)))


class OneForAll(Times):
    """One time for all rows of a batch.

    Args:
        times: its distribution.
    """

    def __init__(self, times: Times):
        self.times = times

    def __call__(self, process: Process, draws: RowDraws, n: int) -> Tensor:
        assert isinstance(draws, Draws)
        common = Draws(draws.seed, step=draws.step, phase=f"{draws.phase}, for all", device=draws.device)
        return self.times(process, common, 1).repeat(n)


def posterior_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> PosteriorStep:
    """One step of a coarse reverse chain: `x_s ~ q(x_s | x_t, x0_pred)` for neighbouring levels s < t.

    The pair of real images is a true pair of the forward process: `x_s` is drawn first and noised further to `x_t`
    (Denoising Diffusion GAN, arXiv 2112.07804: the fake of its discriminator).

    Args:
        denoiser: predicts x_0 from x_t.
        batch: real images.
        levels: [N+1] increasing times from 0 (clean) to the noisiest.
    """
    process = denoiser.process
    index = batch.draws.integers(len(levels) - 1, (len(batch),))
    levels = levels.to(batch.x_0.device)
    s, t = levels[index], levels[index + 1]
    x_s = noise(process, batch, s).x_t
    scale = process.alpha(t) / process.alpha(s)
    variance = process.sigma(t).square() - (scale * process.sigma(s)).square()
    x_t = per_image(scale, x_s) * x_s + per_image(variance.sqrt(), x_s) * standard_normal(batch)
    prediction = denoiser(x_t, t, batch.condition)
    mean, std = process.posterior(prediction.x0, x_t, s, t)
    x_s_fake = mean + std * standard_normal(batch)
    return PosteriorStep(x_s_real=x_s, x_s_fake=x_s_fake, x_t=x_t, s=s, t=t, prediction=prediction)


def few_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> OneStep:
    """One prediction of a few-step student: the level of each image is drawn from the student's own `levels` [N]."""
    index = batch.draws.integers(len(levels), (len(batch),))
    noised = noise(denoiser.process, batch, levels.to(batch.x_0.device)[index])
    return OneStep(noised, denoiser(noised.x_t, noised.t, batch.condition))


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
        num_grad_steps: k; all steps carry gradient where fewer than k are walked.
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
        guidance: scale w of classifier-free guidance, see `network_output`; 1 is none.

    Returns:
        [B, C, H, W] the sampler's final image, or latent where the denoiser works on latents; differentiable with
        respect to the denoiser's parameters.

    Raises:
        ValueError: `start` outside the path.
    """
    scheduler, first = begun(scheduler, num_steps, start, batch.x_0.device)
    x = scheduler_start(scheduler, batch.x_0, standard_normal(batch), scheduler.timesteps[first])
    for call in range(first, len(scheduler.timesteps)):
        timestep = scheduler.timesteps[call]
        carries = torch.is_grad_enabled() and (grad_steps is None or call // scheduler.order in grad_steps)
        with torch.set_grad_enabled(carries):
            output = network_output(denoiser, scheduler, x, timestep, batch.condition, guidance)
        if carries and grad_scales is not None:
            output.register_hook(lambda grad, scale=grad_scales[call]: grad * scale)
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    return x


def coefficients(scheduler: Any, num_steps: int, start: int = 0) -> list[float]:
    """c_i of `simulate`: the derivative of the final image with respect to each network output of the whole path.

    Found by walking the scheduler itself, which is affine with the same numbers at each pixel, over a single pixel; 0
    for the calls before `start`.
    """
    scheduler, first = begun(scheduler, num_steps, start)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    outputs = [torch.zeros_like(x, requires_grad=True) for _ in scheduler.timesteps]
    with torch.enable_grad():
        for call in range(first, len(outputs)):
            scheduler_input(scheduler, x.detach(), scheduler.timesteps[call])  # some schedulers warn without
            x = scheduler.step(outputs[call], scheduler.timesteps[call], x, return_dict=False)[0]
        x.backward()
    return [0.0 if output.grad is None else output.grad.item() for output in outputs]


def equalising(c: Sequence[float]) -> list[float]:
    """Factors mean|c| / |c_i| that give all network calls the same share of the gradient (ours).

    The mean runs over the coefficients other than 0 (below 1e-6 of the largest counts as 0), whose factor is 1.
    """
    sizes = [abs(x) for x in c]
    floor = 1e-6 * max(sizes)
    counted = [size for size in sizes if size > floor]
    return [sum(counted) / len(counted) / size if size > floor else 1.0 for size in sizes]


def deterministic(denoiser: Denoiser, name: str, num_steps: int, num_grad_steps: int) -> Any:
    """The scheduler of that name for `simulate`.

    Raises:
        ValueError: one that adds noise on its way, more steps with gradient than steps, or a path that it cannot walk.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps={num_steps}` must be at least 1")
    if not 1 <= num_grad_steps <= num_steps:
        raise ValueError(f"`num_grad_steps={num_grad_steps}` must lie between 1 and `num_steps={num_steps}`")
    if name in ("ddpm", "lcm"):
        raise ValueError(f"`scheduler={name}` adds noise on its way; simulate ddim, dpm, euler or heun")
    scheduler = denoiser.process.scheduler(name, denoiser.prediction)
    set_timesteps(scheduler, num_steps)
    return scheduler


def begun(scheduler: Any, num_steps: int, start: int, device: torch.device | str | None = None) -> tuple[Any, int]:
    """A scheduler of one's own, about to take step `start` of its path, and the network call with which that begins."""
    if not 0 <= start < num_steps:
        raise ValueError(f"`start={start}` must lie on the path of `num_steps={num_steps}`: 0 to {num_steps - 1}")
    scheduler = copy(scheduler)  # its history belongs to this rollout
    set_timesteps(scheduler, num_steps, device)
    first = start * scheduler.order  # Heun: two calls a step, but for the last
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler, first


def scheduler_start(scheduler: Any, x_0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    """`x_0` noised to `timestep`, in the scale in which this diffusers scheduler keeps its samples."""
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(x_0, timestep.expand(1), eps)
    return scheduler.add_noise(x_0, eps, timestep.expand(1))


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


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    scheduler: Any,
    num_steps: int,
    *,
    latents: Tensor,
    condition: Tensor | list[str] | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Samples from pure noise with a diffusers scheduler; latents are to be decoded by `denoiser.decode`.

    Args:
        denoiser: the network, its process and its prediction type.
        scheduler: a diffusers scheduler, configured for the denoiser.
        num_steps: sampler steps; one network call each (Heun: two, but for the last step).
        latents: [n, C, H, W] standard normal noise.
        condition: [n] classes, or n captions, of a conditional network.
        guidance: scale of classifier-free guidance; 1 is none, and any other doubles the work.
        generator: source of the noise that stochastic schedulers add on the way.
        batch_size: images that pass through the network at once; see `rows_at_once` when None.
        watch: called with the state [b, C, H, W] of a batch before the first and after every step.

    Returns:
        [n, C, H, W] images, nominally in [-1, 1] (not clamped), or latents of images; in the precision of `latents` (at
        least float32).
    """
    training = denoiser.training
    denoiser.eval()
    extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    finished = []
    size = batch_size or rows_at_once(latents, denoiser.factor**2)
    for first in range(0, len(latents), size):
        rows = slice(first, first + size)
        set_timesteps(scheduler, num_steps, latents.device)
        x = initial_sample(scheduler, latents[rows])
        told = denoiser.condition(None if condition is None else condition[rows], x)
        if watch is not None:
            watch(x)
        for timestep in scheduler.timesteps:
            output = network_output(denoiser, scheduler, x, timestep, told, guidance)
            x = scheduler.step(output, timestep, x, return_dict=False, **extra)[0]
            if watch is not None:
                watch(x)
        finished.append(x)
    denoiser.train(training)
    return torch.cat(finished)


def rows_at_once(x: Tensor, pixels: int = 1) -> int:
    """How many rows of x [n, c, h, w] pass through a network at once where nobody says: 256, or 2^22 pixels (ours).

    Args:
        x: images or latents.
        pixels: of an image per place of x.
    """
    return max(1, min(256, 2**22 // (pixels * x.shape[-2] * x.shape[-1])))
