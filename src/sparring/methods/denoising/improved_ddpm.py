"""Improved DDPM: a learned variance, for fewer steps and better likelihoods (Nichol and Dhariwal, arXiv 2102.09672).

Status: no gain; the bound falls by 0.09 bits, samples of few steps are no better (docs/results/training.md).

The network gives the variance of each reverse step beside its output, between its two limits:

    log var = f log beta_t + (1 - f) log beta~_t,    f = (v + 1) / 2
    L = |output - target|^2 + weight T L_t,          L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))

L_t is in bits per number. The mean in it is held fixed, so that the bound trains the variance only ("hybrid"). Any
number of the T levels can be sampled: the scheduler makes betas anew from those that it keeps. Fake: the one-step
prediction; there is no discriminator. Paper: all of this, cosine levels, weight 0.001, the sampler of levels for the
pure bound (`LossAware`). Ours: any prediction type, and a bound for images of `bins` values.
"""

from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.generators import Denoiser, Generator
from sparring.methods.method import Losses, Method, check_not_negative, held_out
from sparring.process import VP, Times, Uniform
from sparring.process.bound import bound_term, prior_term
from sparring.rollout import OneStep, noise, noise_at

LEVELS = 50  # at which the bound is measured for each held-out image (our choice)


class ImprovedDDPM(Method):
    """Denoising with a learned variance.

    Args:
        generator: the denoiser to train, on a VP process; its network gives twice as many channels as it takes.
        objective: "hybrid" is the squared error and the bound, which trains the variance only; "bound" is only
            the bound, which then trains both.
        bound_weight: factor of the bound in the hybrid loss.
        bins: values that a pixel can have; 17 for the digits.
        times: distribution of the noise level; all levels equally likely when None.
    """

    generator: Denoiser
    sampler = "ddpm"
    sample_steps = 50

    def __init__(
        self,
        generator: Denoiser,
        *,
        objective: Literal["hybrid", "bound"] = "hybrid",
        bound_weight: float = 0.001,
        bins: int = 256,
        times: Times | None = None,
    ):
        if not isinstance(generator.process, VP):
            raise ValueError(f"a learned variance needs the levels of VP, not {type(generator.process).__name__}")
        generator.process.check_bound("method=ImprovedDDPM")
        if generator.start is not None:
            raise ValueError("`denoiser.start`: the bound is of samples that begin from normal noise; leave it out")
        check_not_negative(bound_weight=bound_weight)
        if bins < 2 or objective not in ("hybrid", "bound"):
            raise ValueError(f"`bins={bins}` must be 2 or more, and `objective={objective}` hybrid or bound")
        super().__init__(generator)
        generator.learned_variance = True
        self.objective, self.bound_weight, self.bins = objective, bound_weight, bins
        self.times = times or Uniform()

    def rollout(self, batch: Batch) -> OneStep:
        noised = noise_at(self.generator.process, batch, self.times)
        condition = self.generator.condition_with_dropout(batch)
        return OneStep(noised, self.generator(noised.x_t, noised.t, condition, variance=True))

    def generator_loss(self, batch: Batch, rollout: OneStep) -> Losses:
        bound, drawn = self.bound(self.generator, rollout), rollout.noised.drawn
        assert drawn is not None
        if self.objective == "bound":
            losses = bound
        else:
            error = self.generator.output_error(rollout.prediction, rollout.noised.x_0, rollout.noised.eps)
            losses = error + self.bound_weight * bound
        self.log(bound=bound.mean())
        return {self.objective: drawn.balanced(losses).mean()}

    def bound(self, denoiser: Denoiser, step: OneStep) -> Tensor:
        """[B] T L_t: an estimate of the bound, in bits per number, from one level for each image."""
        process, noised, prediction = denoiser.process, step.noised, step.prediction
        assert isinstance(process, VP)
        if prediction.variance is None:
            raise ValueError(
                "the network gives no variance: build it with twice the channels that it takes (`out_channels`)"
            )
        x_0_pred = prediction.x0.detach() if self.objective == "hybrid" else prediction.x0
        term = bound_term(process, noised.x_0, noised.x_t, noised.t, x_0_pred, prediction.variance, self.bins)
        return process.num_timesteps * term

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`bits` per number of held-out images: the variational bound, over levels spread evenly."""
        assert isinstance(generator, Denoiser)
        batch = generator.embed(held_out(data, draws, 200))
        process, total = generator.process, torch.zeros(())
        assert isinstance(process, VP)
        for place in range(LEVELS):
            u = (place + draws.uniform((len(batch),))) / LEVELS
            noised = noise(process, batch, process.time_from_uniform(u))
            step = OneStep(noised, generator(noised.x_t, noised.t, batch.condition, variance=True))
            total = total + self.bound(generator, step).mean().cpu() / LEVELS
        return {"bits": float(total + prior_term(process, batch.x_0).mean().cpu())}
