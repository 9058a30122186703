"""How a fake is made from a batch of real images: one step, a posterior step, a simulated sampler, a few-step student."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.denoiser import Denoiser, Prediction
from sparring.process import Process, set_timesteps
from sparring.process.times import Times


@dataclass
class Noised:
    """Real images at a noise level: `x_t = alpha(t) x_0 + sigma(t) eps`, images [B, C, H, W], `t` [B] in (0, 1]."""

    x_0: Tensor
    eps: Tensor
    t: Tensor
    x_t: Tensor


@dataclass
class OneStep:
    """A noised batch and what the denoiser makes of it in one pass; `prediction.x0` is index-aligned with `noised.x_0`."""

    noised: Noised
    prediction: Prediction


@dataclass
class PosteriorStep:
    """Two neighbouring noise levels of the same images, and the denoiser's draw of the lower one from the higher one."""

    x_s_real: Tensor
    x_s_fake: Tensor
    x_t: Tensor
    s: Tensor
    t: Tensor
    prediction: Prediction


def noise(process: Process, batch: Batch, t: Tensor) -> Noised:
    """Noises the images of a batch at times `t` [B], with noise from `batch.draws`."""
    eps = batch.draws.normal(tuple(batch.images.shape))
    return Noised(x_0=batch.images, eps=eps, t=t, x_t=process.add_noise(batch.images, eps, t))


def one_step(denoiser: Denoiser, batch: Batch, times: Times) -> OneStep:
    """One prediction of the clean image at a drawn noise level, as in ordinary denoising training (fake of SADM)."""
    noised = noise(denoiser.process, batch, times(denoiser.process, batch.draws, len(batch)))
    return OneStep(noised, denoiser(noised.x_t, noised.t, batch.labels))


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
    levels = levels.to(batch.images.device)
    s, t = levels[index], levels[index + 1]
    x_s = noise(process, batch, s).x_t
    scale = (process.alpha(t) / process.alpha(s)).view(-1, 1, 1, 1)
    std = (process.sigma(t).view(-1, 1, 1, 1).square() - (scale * process.sigma(s).view(-1, 1, 1, 1)).square()).sqrt()
    x_t = scale * x_s + std * batch.draws.normal(tuple(x_s.shape))
    prediction = denoiser(x_t, t, batch.labels)
    mean, deviation = process.posterior(prediction.x0, x_t, s, t)
    x_s_fake = mean + deviation * batch.draws.normal(tuple(x_s.shape))
    return PosteriorStep(x_s_real=x_s, x_s_fake=x_s_fake, x_t=x_t, s=s, t=t, prediction=prediction)


def few_step(denoiser: Denoiser, batch: Batch, levels: Tensor) -> OneStep:
    """One prediction of a few-step student: the level of each image is drawn from the student's own `levels` [N]."""
    index = batch.draws.integers(len(levels), (len(batch),))
    noised = noise(denoiser.process, batch, levels.to(batch.images.device)[index])
    return OneStep(noised, denoiser(noised.x_t, noised.t, batch.labels))


def simulate(
    denoiser: Denoiser,
    batch: Batch,
    scheduler: Any,
    *,
    num_steps: int,
    start: int = 0,
    grad_steps: list[int] | None = None,
) -> Tensor:
    """Runs the sampler from a noised real image to the end, with a bounded backward path (ADT, arXiv 2504.11423).

    The input of the network is detached at every step, so the gradient crosses the network once per step in
    `grad_steps` and no product of network Jacobians appears; all other steps run without a graph. With the affine step
    `x <- a_i x + b_i f_i` of a first-order scheduler the gradient is `sum_i c_i df_i` with `c_i = b_i prod_{j<i} a_j`
    (product over the later steps). Multistep and Heun schedulers: their history is detached, gradient passes through
    the newest output alone.

    Args:
        denoiser: the network, its process and its prediction type.
        batch: real images, labels and draws.
        scheduler: a diffusers scheduler, configured for the denoiser (`process.scheduler(...)`).
        num_steps: length of the inference path (number of sampler steps from pure noise).
        start: place on the path to begin at: 0 is the noisiest level, `num_steps - 1` the last step before the image.
        grad_steps: indices on the path, in [start, path length), that carry gradient; all of them when None.

    Returns:
        [B, C, H, W] the sampler's final image, differentiable with respect to the denoiser's parameters.
    """
    images = batch.images
    set_timesteps(scheduler, num_steps, images.device)
    timesteps = scheduler.timesteps
    x = scheduler_start(scheduler, images, batch.draws.normal(tuple(images.shape)), timesteps[start])
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    for i in range(start, len(timesteps)):
        carries = torch.is_grad_enabled() and (grad_steps is None or i in grad_steps)
        x_in = model_input(scheduler, x, timesteps[i])
        with torch.set_grad_enabled(carries):
            output = denoiser.network(x_in.detach(), timesteps[i].expand(len(x)), batch.labels).float()
        x = scheduler.step(output, timesteps[i], x, return_dict=False)[0]
        forget_graph(scheduler)
    return x


def scheduler_start(scheduler: Any, x_0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    """`x_0` noised to `timestep`, in the scale in which this diffusers scheduler keeps its samples."""
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(x_0, timestep.expand(1), eps)
    return scheduler.add_noise(x_0, eps, timestep.expand(len(x_0)))


def forget_graph(scheduler: Any) -> None:
    """Detaches the history that a multistep or Heun scheduler keeps between its steps."""
    if getattr(scheduler, "model_outputs", None):
        scheduler.model_outputs = [None if m is None else m.detach() for m in scheduler.model_outputs]
    for name in ("prev_derivative", "sample"):
        if isinstance(getattr(scheduler, name, None), Tensor):
            setattr(scheduler, name, getattr(scheduler, name).detach())


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    scheduler: Any,
    num_steps: int,
    *,
    latents: Tensor,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Samples images from pure noise with a diffusers scheduler.

    Args:
        denoiser: the network, its process and its prediction type.
        scheduler: a diffusers scheduler, configured for the denoiser.
        num_steps: sampler steps; one network call each (Heun: two, but for the last step).
        latents: [n, C, H, W] standard normal noise.
        labels: [n] classes of a conditional network.
        generator: source of the noise that stochastic schedulers add on the way.
        batch_size: images that pass through the network at once.
        progress: called with the number of images finished by each batch.

    Returns:
        [n, C, H, W] float32 images, nominally in [-1, 1] (not clamped).
    """
    training = denoiser.training
    denoiser.eval()
    extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    finished = []
    for first in range(0, len(latents), batch_size):
        rows = slice(first, first + batch_size)
        set_timesteps(scheduler, num_steps, latents.device)
        x = latents[rows] * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            x_in = model_input(scheduler, x, timestep)
            output = denoiser.network(x_in, timestep.expand(len(x)), None if labels is None else labels[rows]).float()
            x = scheduler.step(output, timestep, x, return_dict=False, **extra)[0]
        finished.append(x.float())
        if progress is not None:
            progress(len(x))
    denoiser.train(training)
    return torch.cat(finished)


def model_input(scheduler: Any, x: Tensor, timestep: Tensor) -> Tensor:
    """What the network is shown: the sample, scaled where the scheduler scales it."""
    return scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
