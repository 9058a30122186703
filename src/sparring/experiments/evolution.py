"""Evolution of the steps of a sampler: which levels it visits and which blocks each step leaves out."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Schedule:
    """One candidate.

    Attributes:
        levels: of the steps, as numbers of a grid from 1 (hardly any noise) on, rising.
        skips: (step, block) that are left out, sorted.
    """

    levels: tuple[int, ...]
    skips: tuple[tuple[int, str], ...] = ()


@dataclass
class Evolution:
    """Searches the schedule of lowest score.

    Source: AutoDiffusion (arXiv 2309.10438), official code: the population, its parts, the chance of a mutation, and
    blocks in the second half of the generations only. Ours: levels that a crossing doubles are drawn anew, and the
    number of blocks that are left out is exact.

    Args:
        steps: of the sampler.
        grid: number of levels to choose from.
        blocks: names of the blocks that can be left out.
        skipped: how many of them are left out, over all steps.
        population: candidates of a generation.
        generations: of them.
        kept: best ones that are parents.
        chance: of each level and block to mutate.
        seed: of all choices.
        evolve: False draws every candidate at random, the control of equal cost.
    """

    steps: int
    grid: int
    blocks: tuple[str, ...] = ()
    skipped: int = 0
    population: int = 50
    generations: int = 10
    kept: int = 10
    chance: float = 0.1
    seed: int = 0
    evolve: bool = True
    scores: dict[Schedule, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.grid:
            raise ValueError(f"`steps={self.steps}` must lie in 1 to `grid={self.grid}`")
        if not 0 <= self.skipped <= (most := self.steps * len(self.blocks)):
            raise ValueError(f"`skip={self.skipped}` must lie in 0 to {most}, the blocks of all steps")
        if min(self.population, self.generations, self.kept) < 1:
            raise ValueError("`population`, `generations` and `kept` must be at least 1")
        self.random = random.Random(self.seed)

    def run(self, score: Callable[[Schedule], float]) -> list[Schedule]:
        """All candidates that were scored with as many blocks left out as asked for, the best first.

        Args:
            score: of a candidate, lower is better; none is scored twice.
        """
        halfway = self.generations // 2 if self.skipped else 0
        for generation in range(self.generations):
            skipped = self.skipped if generation >= halfway else 0
            for candidate in self.candidates(skipped, first=generation == 0):
                self.scores[candidate] = score(candidate)
        return self.best(self.skipped)

    def best(self, skipped: int) -> list[Schedule]:
        """Candidates with so many blocks left out, the best first."""
        return sorted(
            (one for one in self.scores if len(one.skips) == skipped), key=lambda one: (self.scores[one], one)
        )

    def candidates(self, skipped: int, first: bool) -> list[Schedule]:
        """New ones for a generation: mutations and crossings of the best, half each; what is missing is random."""
        parents = self.best(skipped)[: self.kept] if self.evolve else []
        if not parents and (self.evolve or first):  # of the first generation, and of the first that leaves blocks out
            parents = [self.with_blocks(one, skipped) for one in self.best(0)[: self.kept] or [self.uniform()]]
        found: dict[Schedule, None] = dict.fromkeys(one for one in parents if one not in self.scores)
        makers: list[tuple[Callable[[], Schedule], int]] = [(lambda: self.fresh(skipped), self.population)]
        if self.evolve:
            mutated = lambda: self.mutated(self.random.choice(parents))  # noqa: E731
            crossed = lambda: self.crossed(*self.random.choices(parents, k=2))  # noqa: E731
            makers = [(mutated, self.population // 2), (crossed, self.population // 2), *makers]
        for maker, wanted in makers if not first else [makers[0], makers[-1]]:
            for _ in range(10 * wanted):
                if len(found) >= self.population or wanted == 0:
                    break
                candidate = maker()
                if candidate not in self.scores and candidate not in found:
                    found[candidate] = None
                    wanted -= 1
        return list(found)

    def uniform(self) -> Schedule:
        """Evenly spaced levels, the noisiest included."""
        return Schedule(tuple(round(self.grid * (step + 1) / self.steps) for step in range(self.steps)))

    def fresh(self, skipped: int) -> Schedule:
        """Any levels and blocks."""
        levels = sorted(self.random.sample(range(1, self.grid + 1), self.steps))
        return self.with_blocks(Schedule(tuple(levels)), skipped)

    def with_blocks(self, schedule: Schedule, skipped: int) -> Schedule:
        """The levels of a schedule with any blocks left out."""
        return Schedule(schedule.levels, self.chosen(self.all_blocks(), skipped))

    def mutated(self, schedule: Schedule) -> Schedule:
        """Each level, and each block, is another one at random."""
        kept = [level for level in schedule.levels if self.random.random() >= self.chance]
        skips = [one for one in schedule.skips if self.random.random() >= self.chance]
        return self.filled(kept, skips, len(schedule.skips))

    def crossed(self, mother: Schedule, father: Schedule) -> Schedule:
        """Step by step, the level of either; blocks of both."""
        levels = [self.random.choice(pair) for pair in zip(mother.levels, father.levels, strict=True)]
        both = sorted({*mother.skips, *father.skips})
        return self.filled(levels, self.chosen(both, len(mother.skips)), len(mother.skips))

    def filled(self, levels: list[int], skips: Sequence[tuple[int, str]], n: int) -> Schedule:
        """Levels without repetition and blocks, with as many unused ones as are missing."""
        kept = set(levels)
        unused = [level for level in range(1, self.grid + 1) if level not in kept]
        kept.update(self.random.sample(unused, self.steps - len(kept)))
        others = [one for one in self.all_blocks() if one not in set(skips)]
        return Schedule(tuple(sorted(kept)), tuple(sorted([*skips, *self.chosen(others, n - len(skips))])))

    def all_blocks(self) -> list[tuple[int, str]]:
        """Every block of every step."""
        return [(step, block) for step in range(self.steps) for block in self.blocks]

    def chosen(self, blocks: list[tuple[int, str]], n: int) -> tuple[tuple[int, str], ...]:
        return tuple(sorted(self.random.sample(blocks, n)))
