"""Images that a trained denoiser makes before the first step, for methods that learn from them."""

import torch
from torch import Tensor

from sparring.data import Draws, ImageData
from sparring.data.waiting import Told, counted
from sparring.generators import Denoiser
from sparring.generators.loop import rows_at_once


def own_samples(
    denoiser: Denoiser,
    data: ImageData,
    n: int,
    *,
    scheduler: str,
    num_steps: int,
    draws: Draws,
    told: Tensor | list[str] | None = None,
) -> tuple[Tensor, Tensor | list[str] | None]:
    """n images [n, C, H, W] (clamped; or latents) of a denoiser, and the classes or captions that it was given.

    Classes and captions, if not given, are drawn from the data's own, so that they are as frequent.

    Args:
        denoiser: what makes them.
        data: the images that it was trained on.
        n: number of images.
        scheduler: name of the sampler.
        num_steps: its steps.
        draws: of the latents and the conditions; their seed is that of stochastic schedulers.
        told: [n] classes or n captions.
    """
    if told is None:
        told = own_conditions(denoiser, data, n, draws)
    latents = draws.normal((n, *denoiser.latent_shape(data.image_shape)))
    size = rows_at_once(latents, denoiser.factor**2)
    states = -(-n // size) * (denoiser.plan(num_steps, scheduler)[1] + 1)
    images = denoiser.generate(
        denoiser.process.scheduler(scheduler, denoiser.prediction),
        num_steps,
        latents=latents,
        condition=told,
        generator=torch.Generator(draws.device).manual_seed(draws.seed),
        batch_size=size,
        watch=Told(f"drawing {counted(n, 'sample')} of the trained denoiser", states),
    )
    return images.clamp(-1, 1) if denoiser.space is None else images, told


def own_conditions(denoiser: Denoiser, data: ImageData, n: int, draws: Draws) -> Tensor | list[str] | None:
    """n classes or captions of the data, drawn with replacement; None if the denoiser takes neither."""
    if denoiser.text is None and not denoiser.takes_labels:
        return None
    denoiser.check_condition(data)
    of = None if len(data) <= n else n  # labels of a stream cost as much as its images
    real = data.captions(of) if denoiser.text is not None else data.labels(of)
    assert real is not None
    index = draws.integers(len(real), (n,)).cpu()
    return [real[i] for i in index.tolist()] if isinstance(real, list) else real[index].to(draws.device)
