"""The search of AutoDiffusion over a trained model: samples of few steps, scored against its training images."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparring.experiments.evolution import Evolution, Schedule
from sparring.metrics.extract import extract
from sparring.metrics.frechet import Gaussian, frechet_between
from sparring.metrics.moments import Moments
from sparring.samplers import Sampler
from sparring.samplers.speed.auto_diffusion import AutoDiffusion


@dataclass
class Scorer:
    """The Frechet distance of samples by a schedule; every schedule gets the same latents.

    Args:
        sampler: of the trained model.
        features: network in whose features distances are measured.
        real: [n, C, H, W] images to measure against.
        n: samples.
        scheduler: one that takes levels of its own.
        grid: number of levels that a schedule counts.
        seed: of the latents.
        settings: further ones of `Sampling`.
    """

    sampler: Sampler
    features: nn.Module
    real: Tensor
    n: int
    scheduler: str
    grid: int
    seed: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.reference = Gaussian.of(Moments.of(extract(self.features, self.real)))

    def __call__(self, schedule: Schedule) -> float:
        return self.of(**described(schedule, self.grid))

    def of(self, times: list[float], skips: list[list[str]]) -> float:
        """The distance for settings of `AutoDiffusion`."""
        using, steps = [AutoDiffusion(times=times, skips=skips)], len(times)
        settings = {"scheduler": self.scheduler, "seed": self.seed, **self.settings}
        images = self.sampler(self.n, steps, using=using, **settings).images
        return frechet_between(Gaussian.of(Moments.of(extract(self.features, images))), self.reference)


def described(schedule: Schedule, grid: int) -> dict[str, Any]:
    """A schedule as settings of `AutoDiffusion`: from noise on."""
    last = len(schedule.levels) - 1
    skips = [[block for at, block in schedule.skips if at == last - step] for step in range(last + 1)]
    return {"times": [level / grid for level in reversed(schedule.levels)], "skips": skips if schedule.skips else []}


def search(evolution: Evolution, scorer: Scorer, again: Scorer, done: Callable[[float], None]) -> list[dict[str, Any]]:
    """The best candidates of the search, scored again on fresh latents and images, the best by that first.

    Args:
        evolution: of the schedules.
        scorer: during the search.
        again: afterwards, since the lowest of many noisy scores is too low.
        done: takes the share of the work that is done.
    """
    total, scored = evolution.population * evolution.generations + evolution.kept, 0

    def counted(score: Scorer, schedule: Schedule) -> float:
        nonlocal scored
        scored += 1
        done(min(scored / total, 1.0))
        return score(schedule)

    best = evolution.run(lambda one: counted(scorer, one))[: evolution.kept]
    found = [
        {"score": counted(again, one), "score_in_search": evolution.scores[one], **described(one, evolution.grid)}
        for one in best
    ]
    return sorted(found, key=lambda one: one["score"])


def write_schedule(file: Path, schedule: dict[str, Any], **about: Any) -> None:
    """Writes a file that `AutoDiffusion` reads.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(schedule | about, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"`out={file}` cannot be written ({error.strerror})") from None
