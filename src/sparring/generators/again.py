"""The last steps of a sampler once more, from finished images that are noised again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.data.draws import derived_seed
from sparring.generators.condition import Condition
from sparring.generators.loop import Noise, SeparateDraws, Walk
from sparring.generators.predictor import Intervention, wrapped

if TYPE_CHECKING:
    from sparring.generators.denoiser import Denoiser


@dataclass
class WalkAgain:
    """Noises images and walks from there: what `Intervention.finish` is given.

    Attributes:
        denoiser: what is sampled.
        scheduler: its diffusers scheduler.
        num_steps: steps of the whole path.
        condition: of the rows.
        using: what is laid around the denoiser.
        draws: random numbers for these rows, a call and a phase. Each round has phases of its own, and noise that a
            stochastic scheduler adds comes from here too, so that the noise of the first walk stays as it was.
        watch: called with every state.
        rounds: how often it was called.
    """

    denoiser: "Denoiser"
    scheduler: Any
    num_steps: int
    condition: Condition
    using: Sequence[Intervention]
    draws: Callable[[int, str], Draws]
    watch: Callable[[Tensor], None] | None = None
    rounds: int = 0

    def __call__(self, x_0: Tensor, share: float, more: Sequence[Intervention]) -> Tensor:
        """See `predictor.Again`."""
        self.rounds += 1
        start = self.num_steps - math.ceil(share * self.num_steps - 1e-9)
        times = self.denoiser.model_times(self.using)
        walk = Walk(self.scheduler, self.num_steps, x_0.device, start, times)
        walk.draws = partial(self.numbers, self.rounds)
        using, noise = [*self.using, *more], generator_of(walk.draws(0, "noise"))
        predict = wrapped(self.denoiser, using)
        output = partial(self.denoiser.step_output, walk, self.condition, predict, generator=noise)
        move = partial(self.denoiser.moved, walk, self.condition, predict, using)
        state = walk.noised(x_0, walk.draws(0, "start").normal(tuple(x_0.shape)).to(x_0))
        moves = any(one.moves for one in using)
        return walk.run(state, output, move=move if moves else None, generator=noise, watch=self.watch)

    def numbers(self, number: int, call: int, phase: str) -> Draws:
        """Random numbers of one round."""
        return self.draws(call, f"{phase} of walk {number + 1}")


def generator_of(draws: Draws) -> Noise:
    """What a scheduler draws from, one for each row if each row has a seed."""
    if isinstance(draws, SeparateDraws):
        return [torch.Generator().manual_seed(one.one_integer(2**62)) for one in draws.each]
    return torch.Generator().manual_seed(derived_seed(draws.one_integer(2**62), draws.first))
