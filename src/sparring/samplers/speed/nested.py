"""Nested diffusion: nested diffusion processes for anytime image generation (Elata et al., arXiv 2305.19066).

Status: no gain over DDIM of as many calls on digits (docs/results/sampling.md).

The clean estimate of each step of the sampler is the result of a short inner chain from x_t, so that every step shows a
finished image and sampling can stop there:

    x_0hat <- inner chain of J_t ancestral steps from x_t (DDIM with eta),        J_t = ceil(J t), at least 1

If the inner chain draws from p(x_0 | x_t), the outer steps are exact whatever their number. A deterministic chain is no
such sample and makes the spread too large, so eta 0 is refused. That the inner chain shortens with t, on an even grid
of times, is ours (the official code caps it); J = 1 is the plain sampler.
"""

import math
from dataclasses import replace

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Intervention, Predictor
from sparring.process import per_image


class Nested(Intervention):
    """An inner chain for every clean estimate.

    Args:
        steps: J, steps of the inner chain from pure noise, a network call each; 1 is the plain sampler.
        eta: noise of the inner chain, in (0, 1]; 1 is ancestral.
    """

    place = "edit"

    def __init__(self, *, steps: int = 10, eta: float = 0.85):
        if steps < 1 or not 0 < eta <= 1:
            raise ValueError(
                f"`steps={steps}` must be at least 1, and `eta={eta}` lie in (0, 1]: without noise the inner chain is "
                "no sample of the clean image"
            )
        self.steps = steps
        self.eta = eta

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def nested(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            plain = inner(x_t, level, condition)
            count = max(1, math.ceil(self.steps * float(level.t) - 1e-9))
            if count == 1:
                return plain
            times = [level.t * (1 - step / count) for step in range(count)]
            x, prediction = x_t, plain
            for t, s in zip(times, times[1:], strict=False):
                x = self.down(prediction, x, t, s, level)
                below = Level.at(level.process, s)
                below.draws, below.z, below.call, below.calls = level.draws, level.z, level.call, level.calls
                prediction = inner(x, below, condition)
            return replace(plain, output=prediction.x0, kind="x0")

        return inner if self.steps == 1 else nested

    def down(self, prediction: Prediction, x_t: Tensor, t: Tensor, s: Tensor, level: Level) -> Tensor:
        """A step of DDIM with eta from time t to s: alpha_s x_0 + sqrt(sigma_s^2 - (eta std)^2) eps + eta std z."""
        process, rows = level.process, len(x_t)
        _, std = process.posterior(prediction.x0, x_t, s.expand(rows), t.expand(rows))
        noise = self.eta * std
        assert level.draws is not None
        z = level.draws.normal(tuple(x_t.shape)).to(x_t)
        alpha, sigma = (per_image(f(s.expand(rows)), x_t) for f in (process.alpha, process.sigma))
        rest = (sigma.square() - noise.square()).clamp(min=0).sqrt()
        return alpha * prediction.x0 + rest * prediction.eps + noise * z
