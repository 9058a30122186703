"""A generator of one network call, or of a few, out of a denoiser: from pure noise to an image."""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.process import per_image
from sparring.rollout.flow_map import sampler_levels
from sparring.rollout.one_step import standard_normal


def check_begins_in_noise(denoiser: Denoiser) -> None:
    """Raises ValueError if samples of a denoiser begin from a density of its own, and not from normal noise."""
    if denoiser.start is not None:
        raise ValueError(
            f"`denoiser.start={type(denoiser.start).__name__}`: this method starts from pure noise; take a "
            "denoiser without it"
        )


def student_levels(denoiser: Denoiser, num_steps: int) -> Tensor:
    """The times [num_steps], rising, at which a student of so many calls is called; of a flow the size may shift them.

    They are those of its scheduler, `student_sampler`.

    Raises:
        ValueError: several steps of a process for which there is no LCM scheduler; a denoiser with a start of its own.
    """
    check_begins_in_noise(denoiser)
    return sampler_levels(denoiser.process, student_sampler(num_steps), num_steps, denoiser.prediction)[1:]


def student_sampler(num_steps: int) -> str:
    """The scheduler of a student of so many calls.

    One call is DDIM's (of a flow or EDM, Euler's): the predicted image. Several are LCM's: predict, noise, predict.
    """
    return "ddim" if num_steps == 1 else "lcm"


def from_noise(denoiser: Denoiser, batch: Batch, levels: Tensor) -> Prediction:
    """One prediction of a student, at a level that is drawn for each row from its own `levels` [N].

    At the noisiest of them it starts from pure noise `sigma z`, so that nothing of the batch's images is in it, as when
    it is sampled; at the others from the noised images. A single level makes it a generator of one call: `.x0` of the
    prediction is the image. A latent z of the denoiser is drawn.

    Args:
        denoiser: the student.
        batch: real images, whose number and conditions count, and at lower levels the images themselves.
        levels: times; see `student_levels`.
    """
    process, levels = denoiser.process, levels.to(batch.x_0.device)
    t = levels[batch.draws.integers(len(levels), (len(batch),))]
    kept = torch.where(t < levels.max(), process.alpha(t), 0.0)
    x_t = per_image(kept, batch.x_0) * batch.x_0 + per_image(process.sigma(t), batch.x_0) * standard_normal(batch)
    return denoiser(x_t, t, batch.condition, denoiser.z(batch))
