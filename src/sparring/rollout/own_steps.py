"""A call of a few-step student from where its own calls have led ("backward simulation")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, Prediction
from sparring.process import Times
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
    falling = levels.to(batch.x_0.device).flip(0)[: 1 + batch.draws.one_integer(len(levels))]
    return calls_at(denoiser, batch, [t.expand(len(batch)) for t in falling])


def falling_steps(denoiser: Denoiser, batch: Batch, times: Times, most: int) -> Prediction:
    """The same for a student of any levels: after the first call from pure noise, each row has times of its own.

    There are 1 to `most` calls, as many for the whole batch. Each time is drawn, and is that of the call before if it
    would be above it. Source: rCM (Zheng et al., arXiv 2510.08431), official code, where the number goes in turn.

    Args:
        denoiser: the student.
        batch: its size, conditions and draws.
        times: distribution of the later levels.
        most: calls at most.
    """
    process, n = denoiser.process, len(batch)
    falling = [process.snap(torch.ones(n, device=batch.x_0.device))]
    for _ in range(batch.draws.one_integer(most)):
        falling.append(torch.minimum(times(process, batch.draws, n).to(falling[0]), falling[-1]))
    return calls_at(denoiser, batch, falling)


def calls_at(denoiser: Denoiser, batch: Batch, falling: Sequence[Tensor]) -> Prediction:
    """The last of a student's calls at times [B] each, the first from pure noise; only the last has a graph."""
    x_0 = torch.zeros_like(batch.x_0)  # of pure noise

    def call(x_0: Tensor, t: Tensor) -> Prediction:
        return denoiser(process.add_noise(x_0, standard_normal(batch), t), t, batch.condition, denoiser.z(batch))

    process, (*before, last) = denoiser.process, falling
    with torch.no_grad():
        for earlier in before:
            x_0 = call(x_0, earlier).x0
    return call(x_0, last)
