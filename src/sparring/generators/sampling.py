"""What is asked of a generator when it is sampled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Draws
from sparring.generators.loop import own_draws
from sparring.generators.predictor import ClassifierFree, Intervention, check_interval


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """n images, and how they are to be drawn; equal settings give equal images.

    Args:
        n: number of images.
        steps: sampler steps.
        scheduler: "ddim", "dpm" …; the generator's own when None.
        labels: classes, repeated to n images; all in turn when None. Only for a class-conditional generator.
        prompts: captions, repeated to n images. Only for a text-to-image generator, and needed there.
        sources: [m, C, h, w] images in [-1, 1], repeated to n. Only for a generator that is conditioned on them, and
            needed there.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_interval: guidance acts if sigma / alpha lies in (low, high]; None: at every level.
        using: what else is added to the sampler, see `sparring.samplers`.
        seed: of the latents and of the noise of stochastic schedulers; or a list of n, one for each image, which is
            then the same whatever images are drawn beside it.
        batch_size: images at once; None: 256, or fewer of large ones. Stochastic schedulers draw their noise for as
            many, so that it is a part of what the images depend on there.
        watch: called with the state of a batch, as images, before the first and after every step.
        progress: called with the share of the work that is done, in (0, 1], after every step or batch.

    Raises:
        ValueError: a number below 1, or an interval that holds no level.
    """

    n: int
    steps: int = 10
    scheduler: str | None = None
    labels: list[int] | None = None
    prompts: list[str] | None = None
    sources: Tensor | None = None
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    using: Sequence[Intervention] = ()
    seed: int | Sequence[int] = 0
    batch_size: int | None = None
    watch: Callable[[Tensor], None] | None = None
    progress: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        for name in ("n", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}={value}` must be at least 1")
        if not isinstance(self.seed, int) and len(self.seed) != self.n:
            raise ValueError(
                f"`seed`: {len(self.seed)} seeds for `n={self.n}` images: give one of them all, or one each"
            )
        if not math.isfinite(self.guidance):
            raise ValueError(f"`guidance={self.guidance}` must be a number; 1 is none")
        check_interval(self.guidance_interval, "guidance_interval")
        if sum(one.needs_none for one in self.interventions) > 1:
            names = ", ".join(one.label for one in self.interventions if one.needs_none)
            raise ValueError(f"{names} all guide by the condition, and would guide each other: choose one")

    @property
    def suffix(self) -> str:
        """What a scheduler's name gets in tables if something is added to the plain sampler: "-w5", "+autoguidance"."""
        low, high = self.guidance_interval or (None, None)
        guidance = "" if self.guidance == 1 else f"-w{self.guidance:g}"
        interval = "" if low is None or high is None or not guidance else f"({low:g}-{high:g})"
        return f"{guidance}{interval}{''.join(f'+{one.label}' for one in self.using)}"

    @property
    def needs_none(self) -> bool:
        """Whether the generator is asked without the condition, too."""
        return any(one.needs_none for one in self.interventions)

    @property
    def interventions(self) -> list[Intervention]:
        """All that is added to the plain sampler, guidance included."""
        guidance = [] if self.guidance == 1 else [ClassifierFree(self.guidance, self.guidance_interval)]
        return [*guidance, *self.using]

    def watched(self, calls: int, decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
        """Shows every state of a walk, decoded, to `watch`, and the share of all `n * calls` states to `progress`."""
        seen = 0

        def watched(state: Tensor) -> None:
            nonlocal seen
            seen += len(state)
            if self.watch is not None:
                self.watch(decode(state))
            if self.progress is not None:
                self.progress(min(seen / (self.n * calls), 1.0))  # a system may walk on from the end

        return watched

    def draws_of(self, batch: slice, device: torch.device) -> Callable[[slice, int, str], Draws]:
        """Random numbers of what is added to the sampler, for rows of a batch, a call and a phase; see `own_draws`."""

        def draws(rows: slice, call: int, phase: str) -> Draws:
            here = slice(batch.start + rows.start, batch.start + rows.stop)
            return own_draws(self.seed, here, call, phase, total=self.n, device=device)

        return draws


def clamped(images: Tensor) -> Tensor:
    """Images in [-1, 1]; where one is infinite it is NaN, and not white, so that it can be refused."""
    return images.clamp(-1, 1).where(images.isfinite(), torch.nan)
