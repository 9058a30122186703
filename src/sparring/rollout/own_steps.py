"""A call of a few-step student from where its own calls have led ("backward simulation")."""

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.rollout.one_step import standard_normal


def own_steps(denoiser: Denoiser, batch: Batch, levels: Tensor) -> Prediction:
    """One prediction of a student, with a graph, at a level that is drawn from its own `levels` for the whole batch.

    At the noisiest level it starts from pure noise. At a cleaner one its input is what its own calls before have led
    to, without a graph, each prediction noised again with fresh noise, as LCM's sampler does. So it learns from what it
    will see, and nothing of the batch's images is in it.
    Source: DMD2 (Yin et al., arXiv 2405.14867), "backward simulation".

    Args:
        denoiser: the student.
        batch: its size, conditions and draws.
        levels: times [N], rising; see `student_levels`.
    """
    process, n = denoiser.process, len(batch)
    *before, t = levels.to(batch.x_0.device).flip(0)[: 1 + batch.draws.one_integer(len(levels))].unbind()
    x_0 = torch.zeros_like(batch.x_0)  # of pure noise

    def call(x_0: Tensor, t: Tensor) -> Prediction:
        t = t.expand(n)
        return denoiser(process.add_noise(x_0, standard_normal(batch), t), t, batch.condition, denoiser.z(batch))

    with torch.no_grad():
        for earlier in before:
            x_0 = call(x_0, earlier).x0
    return call(x_0, t)
