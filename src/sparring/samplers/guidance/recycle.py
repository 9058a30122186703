"""RRR: reduce, reuse, recycle, composition with energy-based diffusion models and MCMC (Du et al., arXiv 2302.11552).

Status: no gain; better at equal steps on digits, and worse at equal calls (docs/results/sampling.md).

A sum of scores (guidance, two models united) is the score of the composed density for clean images only; on the way
it is that of no noised density, and samplers end up beside it. At every level the state is therefore moved by steps
of Langevin dynamics with the composed score:

    x <- x + h s(x) + sqrt(2 h) z,        s = -eps / sigma,        h = step sigma^2 (or step, see `relative`)

K times before each step of the sampler, with z from the seed of the images. Unadjusted, its own bias falls with h.
`adjusted`, a step from x to y is taken with probability min(1, a) only, which has no bias at any h:

    log a = log p(y) - log p(x) + |y - x - h s(x)|^2 / 4h - |x - y - h s(y)|^2 / 4h

The paper takes log p from networks that are slopes of an energy. Here it is the score along the step, (s(x) + s(y)) / 2
(y - x), which costs no energies of what is composed and is exact for Gaussians (ours); a score that is no slope of
anything, as that of most networks, has no p to be exact for (recipe `energy`). Everything else that is added to the
sampler makes the composition. That h goes with sigma^2 is ours.
"""

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators import Condition, DenoisingNetwork
from sparring.generators.level import Level
from sparring.generators.predictor import Interval, Intervention, Predictor, check_interval, within


class Recycle(Intervention):
    """Langevin steps at every level, with the score of all that is laid around the denoiser.

    Args:
        steps: K, Langevin steps at each level, a network call each, and one more if `adjusted`; 0 is none.
        step: h over sigma^2.
        relative: h is `step` sigma^2; else `step` at every level.
        adjusted: steps are accepted or rejected, each image for itself (MALA).
        interval: levels sigma / alpha at which the state is moved, (low, high]; None: all of them.
    """

    moves = True

    def __init__(
        self,
        *,
        steps: int = 4,
        step: float = 0.1,
        relative: bool = True,
        adjusted: bool = False,
        interval: Interval | None = (0.05, 20.0),
    ):
        if steps < 0 or step <= 0:
            raise ValueError(f"`steps={steps}`, `step={step}`: 0 or more steps, of a size above 0")
        self.steps = steps
        self.step = step
        self.relative = relative
        self.adjusted = adjusted
        self.interval = check_interval(interval)

    def move(
        self,
        x_t: Tensor,
        level: Level,
        condition: Condition,
        predict: Predictor,
        denoiser: DenoisingNetwork,
        draws: Draws,
    ) -> Tensor:
        if not within(self.interval, level):
            return x_t
        sigma = float(level.sigma)
        h = self.step * (sigma**2 if self.relative else 1.0)

        def score_at(x: Tensor) -> Tensor:
            return predict(x, level, condition).eps / -sigma

        score: Tensor | None = None
        for _ in range(self.steps):
            score = score_at(x_t) if score is None else score
            y = x_t + h * score + (2 * h) ** 0.5 * draws.normal(tuple(x_t.shape)).to(x_t)
            if not self.adjusted:
                x_t, score = y, None
                continue
            there = score_at(y)
            taken = draws.uniform((len(y),)).to(y).log() < log_acceptance(x_t, y, score, there, h)
            taken = taken.view(-1, *[1] * (y.ndim - 1))
            x_t, score = torch.where(taken, y, x_t), torch.where(taken, there, score)
        return x_t


def log_acceptance(x: Tensor, y: Tensor, score_x: Tensor, score_y: Tensor, h: float) -> Tensor:
    """log a [B] of Langevin steps from x to y [B, ...], with the scores at both."""
    step = y - x
    along = (score_x + score_y) / 2 * step
    there, back = (step - h * score_x).square(), (step + h * score_y).square()
    return (along + (there - back) / (4 * h)).flatten(1).sum(1)
