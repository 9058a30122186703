"""Model guidance: diffusion models without classifier-free guidance (Tang et al., arXiv 2502.12154).

Status: proven; one pass in place of the two of guidance, which digits do not need (docs/results/sampling.md).

The target of a conditional output holds the guidance already, so that one pass is enough when it is sampled:

    target' = target + 1[t < 0.75] (w - 1) sg(f_ema(x_t, t, y) - f_ema(x_t, t, none))

for images with a condition, from `start_step` on; images whose condition is left out keep the plain target. The
average is itself guided, so the fixed point is m_c + (w - 1) / (2 - w) (m_c - m_u): ordinary guidance by 1 / (2 - w),
1.82 for the paper's 1.45, and none from w = 2 on. f is the network's own output, whatever it predicts; the paper has a
flow. Sizes, rates and `start_step` are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method, moving_copy
from sparring.process import Times, per_image
from sparring.rollout import Noised, noise


@dataclass
class WithGap:
    """A noised batch, the network's output and what is added to its target, both [B, C, H, W]."""

    noised: Noised
    output: Tensor
    gap: Tensor


class ModelGuidance(Method):
    """Denoising training towards a guided target.

    Args:
        generator: a class-conditional denoiser with a class that says "none", and some `condition_dropout`.
        weight: w, in [1, 2); 1 is ordinary training. The effective weight of guidance is 1 / (2 - w).
        until: times t above this are not guided.
        start_step: training step from which on targets are guided.
        decay: of the average that gives the gap.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        *,
        weight: float = 1.45,
        until: float = 0.75,
        start_step: int = 0,
        decay: float = 0.9999,
        times: Times | None = None,
    ):
        if not 1 <= weight < 2:
            raise ValueError(f"`weight={weight}` must lie in [1, 2): the effective weight is 1 / (2 - w)")
        if not 0 < until <= 1 or not 0 <= decay < 1:
            raise ValueError(f"`until={until}` must lie in (0, 1], and `decay={decay}` in [0, 1)")
        if not generator.takes_labels or generator.condition_dropout == 0:
            raise ValueError(
                "model guidance needs a class-conditional network and `denoiser.condition_dropout` above 0 (0.1): it "
                "learns the output without a class, too"
            )
        super().__init__(generator)
        self.average = moving_copy(generator)
        self.weight = weight
        self.until = until
        self.start_step = start_step
        self.decay = decay
        self.times = times or generator.process.default_times()

    def rollout(self, batch: Batch) -> WithGap:
        denoiser = self.generator
        noised = noise(denoiser.process, batch, self.times(denoiser.process, batch.draws, len(batch)))
        given = denoiser.condition_with_dropout(batch)
        assert isinstance(given, Tensor)
        output = denoiser(noised.x_t, noised.t, given).output
        gap = torch.zeros_like(output)
        if self.weight != 1 and self.step >= self.start_step:
            with torch.no_grad():
                told = self.average(noised.x_t, noised.t, batch.condition).output
                none = self.average(noised.x_t, noised.t, denoiser.unconditional(given)).output
            guided = (noised.t < self.until) & (given != denoiser.null_class)
            gap = per_image((self.weight - 1) * guided.to(told), told) * (told - none)
        return WithGap(noised, output, gap)

    def generator_loss(self, batch: Batch, rollout: WithGap) -> Losses:
        noised = rollout.noised
        target = self.generator.target(noised.x_0, noised.eps, noised.t) + rollout.gap
        self.log(gap=rollout.gap.square().mean().sqrt())
        return {"diffusion": (rollout.output - target).square().flatten(1).mean(1).mean()}

    def after_step(self) -> None:
        self.average.follow(self.generator, 1 - self.decay)
