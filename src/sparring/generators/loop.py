"""The loop: a stock diffusers scheduler walked from noise to an image, for samples and for rollouts in training.

It lies with the generators, left of `samplers`, because a generator samples itself (`denoiser.sample(16)`, the grids of
a run).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators.level import Level
from sparring.process import Process, initial_sample, set_model_times, set_timesteps


class Walk:
    """A diffusers scheduler on its grid, from a step on to the end.

    Args:
        scheduler: a diffusers scheduler; left as it is, and its history belongs to this walk.
        num_steps: sampler steps from pure noise; one network call each (Heun: two, but for the last step).
        device: where the samples are.
        start: the step to begin at, from a noised image; None: the first, from pure noise.
        model_times: the network's times of the steps, falling; None: those of the scheduler.

    Attributes:
        first: number of the first network call.
        draws: random numbers of what is added, for a call and a phase; None: there are none.

    Raises:
        ValueError: `start` outside the path; what `set_timesteps` refuses.
    """

    def __init__(
        self,
        scheduler: Any,
        num_steps: int,
        device: torch.device | str | None = None,
        start: int | None = None,
        model_times: Tensor | None = None,
    ):
        if start is not None and not 0 <= start < num_steps:
            raise ValueError(f"`start={start}` must lie on the path of `num_steps={num_steps}`: 0 to {num_steps - 1}")
        self.draws: Callable[[int, str], Draws] | None = None
        self.scheduler = copy(scheduler)
        set_timesteps(self.scheduler, num_steps, device)
        if model_times is not None:
            if len(model_times) != num_steps:
                chosen = len(model_times)
                raise ValueError(f"`steps={num_steps}`: {chosen} levels were chosen; take as many steps, {chosen}")
            set_model_times(self.scheduler, model_times, device)
        self.first = (start or 0) * self.scheduler.order  # Heun: two calls a step, but for the last
        if start is not None and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(self.first)

    @property
    def timesteps(self) -> Tensor:
        """The network's time for each of its calls, also for those before `first`."""
        return self.scheduler.timesteps

    def noise(self, latents: Tensor) -> Tensor:
        """The state of pure noise, made of standard normal `latents` [B, c, h, w]."""
        return initial_sample(self.scheduler, latents)

    def noised(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """The state of images `x_0` [B, c, h, w] with noise `eps` at the first level."""
        timestep = self.timesteps[self.first].expand(1)
        if hasattr(self.scheduler, "scale_noise"):  # flow matching
            return self.scheduler.scale_noise(x_0, timestep, eps)
        return self.scheduler.add_noise(x_0, eps, timestep)

    def level(self, call: int, process: Process) -> Level:
        """Where a network call takes place; good until the scheduler steps on."""
        level = Level(process, self.timesteps[call], self.scheduler, call, len(self.timesteps))
        if call + 1 < len(self.timesteps):
            level.after = Level(process, self.timesteps[call + 1])
        if self.draws is not None:
            level.draws = self.draws(call, "predictions")
        return level

    def run(
        self,
        x: Tensor,
        output: Callable[[int, Tensor], Tensor],
        *,
        move: Callable[[int, Tensor], Tensor] | None = None,
        generator: "Noise | None" = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """The scheduler's state [B, c, h, w] at the end; affine in the outputs, and gradient passes if it is enabled.

        Args:
            x: the state at the beginning, by `noise` or `noised`.
            output: the network's raw output for the number of the call and the state.
            move: edits the state before the first call of each step.
            generator: source of the noise that stochastic schedulers add on the way, or one for each row.
            watch: called with the state before the first and after every call.
        """
        extra = {"generator": generator} if "generator" in signature(self.scheduler.step).parameters else {}
        if watch is not None:
            watch(x)
        for call in range(self.first, len(self.timesteps)):
            if move is not None and call % self.scheduler.order == 0:
                x = move(call, x)
            x = self.scheduler.step(output(call, x), self.timesteps[call], x, return_dict=False, **extra)[0]
            if watch is not None:
                watch(x)
        return x


def rows_at_once(x: Tensor, pixels: int = 1) -> int:
    """How many rows of x [n, c, h, w] pass through a network at once by default: 256, or 2^22 pixels (our choice).

    Args:
        x: images or latents.
        pixels: of an image per place of x.
    """
    return max(1, min(256, 2**22 // (pixels * x.shape[-2] * x.shape[-1])))


def normal_rows(n: int, shape: tuple[int, ...], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`torch.randn((n, *shape), generator=generator)` bit for bit, `size` rows at a time, without holding them all.

    torch fills a tensor sixteen numbers after sixteen; if their count is no multiple, it draws the last sixteen again.
    So blocks hold a multiple of sixteen rows, and the last one takes up the rest.
    """
    block, first = math.lcm(size, 16), 0
    while first < n:
        rows = block if n - first >= 2 * block else n - first
        yield from torch.randn((rows, *shape), generator=generator).split(size)
        first += rows


class SeparateDraws(Draws):
    """Draws whose rows have a seed each, so that a row's numbers do not depend on the rows beside it.

    Args:
        seeds: of the rows.
        settings: of the draws: step, phase, device.
    """

    def __init__(self, seeds: Sequence[int], **settings: Any):
        super().__init__(seeds[0], **settings)
        self.each = [Draws(seed, **settings) for seed in seeds]

    @property
    def count(self) -> int:
        return len(self.each)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.cat([one.normal((1, *shape[1:])) for one in self.each])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.cat([one.uniform((1, *shape[1:])) for one in self.each])


def own_draws(
    seed: int | Sequence[int], rows: slice, call: int, phase: str, *, total: int, device: torch.device
) -> Draws:
    """Random numbers of what is added at one call: they follow the seed and leave the scheduler's noise alone.

    Args:
        seed: as in `drawn`.
        rows: those of all `total` rows that are walked.
        call: number of the network call.
        phase: "moves" for edits of the state, "predictions" for what predicts.
        total: rows of the whole sampling.
        device: of the numbers.
    """
    settings: dict[str, Any] = dict(step=call, phase=phase, device=device)
    if isinstance(seed, int):
        return Draws(seed, rows=rows, total=total, **settings)
    return SeparateDraws(seed[rows], **settings)


Noise = torch.Generator | list[torch.Generator]
"""A source of random numbers for a batch, or one for each of its rows."""


def drawn(
    n: int, shape: tuple[int, ...], size: int, seed: int | Sequence[int]
) -> Iterator[tuple[slice, Tensor, Noise]]:
    """Standard normal latents [n, *shape] a batch at a time: rows, their latents, and where further noise comes from.

    Args:
        n: number of rows.
        shape: of a row.
        size: rows of a batch.
        seed: one of them all, `torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))`, with further
            noise behind it; or n seeds, of which each does this for its row, whatever rows there are beside it.
    """
    if not isinstance(seed, int):
        for first in range(0, n, size):
            own = [torch.Generator().manual_seed(one) for one in seed[first : first + size]]
            rows = slice(first, first + len(own))
            yield rows, torch.cat([torch.randn((1, *shape), generator=one) for one in own]), own
        return
    behind, first = torch.Generator().manual_seed(seed), 0
    for _ in normal_rows(n, shape, size, behind):
        pass
    for latents in normal_rows(n, shape, size, torch.Generator().manual_seed(seed)):
        yield slice(first, first + len(latents)), latents, behind
        first += len(latents)
