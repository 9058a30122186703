"""RRR: reduce, reuse, recycle, composition with energy-based diffusion models and MCMC (Du et al., arXiv 2302.11552).

Status: no gain; better at equal steps on digits, and worse at equal calls (docs/results/sampling.md).

A sum of scores (guidance, two models united) is the score of the composed density for clean images only; on the way
it is that of no noised density, and samplers end up beside it. At every level the state is therefore moved by steps
of Langevin dynamics with the composed score:

    x <- x + h s(x) + sqrt(2 h) z,        s = -eps / sigma,        h = step sigma^2 (or step, see `relative`)

K times before each step of the sampler, with z from the seed of the images. It is unadjusted: its own bias falls with
h, and networks that give no energies have none to accept or reject by, which the paper's best results do. Everything
else that is added to the sampler makes the composition. That h goes with sigma^2 is ours.
"""

from torch import Tensor

from sparring.data import Draws
from sparring.generators import Condition, DenoisingNetwork
from sparring.generators.level import Level
from sparring.generators.predictor import Interval, Intervention, Predictor, check_interval, within


class Recycle(Intervention):
    """Langevin steps at every level, with the score of all that is laid around the denoiser.

    Args:
        steps: K, Langevin steps at each level, a network call each; 0 is none.
        step: h over sigma^2.
        relative: h is `step` sigma^2; else `step` at every level.
        interval: levels sigma / alpha at which the state is moved, (low, high]; None: all of them.
    """

    moves = True

    def __init__(
        self, *, steps: int = 4, step: float = 0.1, relative: bool = True, interval: Interval | None = (0.05, 20.0)
    ):
        if steps < 0 or step <= 0:
            raise ValueError(f"`steps={steps}`, `step={step}`: 0 or more steps, of a size above 0")
        self.steps = steps
        self.step = step
        self.relative = relative
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
        for _ in range(self.steps):
            score = predict(x_t, level, condition).eps / -sigma
            x_t = x_t + h * score + (2 * h) ** 0.5 * draws.normal(tuple(x_t.shape)).to(x_t)
        return x_t
