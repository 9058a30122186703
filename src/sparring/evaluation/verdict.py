"""Method against control over seeds: the mean difference, its interval, and the verdict of an arm over its settings."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sparring.evaluation.comparison import Arm, Comparison
from sparring.runs.results import Result, Setting

LEVEL = 0.05
FEWER = 0.9  # share of an arm's network calls below which those of its control are said
NAMED = 3  # settings in a sentence, beside the clearest
Word = Literal["gain", "no gain", "worse", "not compared"]


@dataclass(frozen=True)
class PairedResult:
    """A method against its control.

    Attributes:
        difference: method - control, mean over the seeds.
        interval: of the difference, two-sided; None if no spread is known.
        p_value: two-sided; 1 if no spread is known.
        verdict: "gain", "no gain" or "worse".
        seeds: how many.
        note: on how many seeds it rests, and which spread it knows.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float
    verdict: Word
    seeds: int
    note: str


def paired_verdict(
    method_values: Sequence[float],
    control_values: Sequence[float],
    *,
    spread: float | None = None,
    shared_spread: float = 0.0,
) -> PairedResult:
    """Method against control, seed by seed.

    From three seeds on, the interval is Student's over the paired differences. One or two seeds say nothing about the
    spread over seeds: then the half-width is `spread`, or half of what lies between two differences if that is more,
    and the note says so. If zero lies inside the interval, or there is none, the verdict is "no gain".

    Args:
        method_values: One distance per seed.
        control_values: The same distance of the control, with the same seeds in the same order.
        spread: For fewer than three seeds: half-width of the interval of one difference, e.g. the root of the summed
            squares of the half-widths of two bootstrap intervals.
        shared_spread: Half-width of what all differences share, when the control is a single model; it is added in
            squares.

    Raises:
        ValueError: No values, not one for each, or one that is not finite.
    """
    if len(method_values) != len(control_values) or not method_values:
        raise ValueError(
            f"{len(method_values)} values of the method and {len(control_values)} of the control: "
            "expected one of each per seed, in the same order"
        )
    differences = [method - control for method, control in zip(method_values, control_values, strict=True)]
    if not all(map(math.isfinite, differences)):
        raise ValueError("a value of the method or the control is not finite: a failed seed has no difference")
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    n, mean = len(differences), statistics.fmean(differences)
    normal = float(ndtri(1 - LEVEL / 2))
    if n >= 3:
        quantile = float(stdtrit(n - 1, 1 - LEVEL / 2))
        error = math.hypot(statistics.stdev(differences) / math.sqrt(n), shared_spread / normal)
        note = f"{n} seeds"
    else:
        between = (max(differences) - min(differences)) / 2
        quantile, error = normal, math.inf if spread is None else max(spread, between) / normal
        note = f"{seeds_in_words(n)}: {'no spread known' if spread is None else 'spread of the samples only'}"
    half = quantile * error
    if error == 0:
        p_value = 1.0 if mean == 0 else 0.0
    else:
        p_value = float(2 * (stdtr(n - 1, -abs(mean) / error) if n >= 3 else ndtr(-abs(mean) / error)))
    verdict: Word = "no gain" if abs(mean) <= half else "gain" if mean < 0 else "worse"
    return PairedResult(mean, None if half == math.inf else (mean - half, mean + half), p_value, verdict, n, note)


def seeds_in_words(n: int) -> str:
    return {1: "one seed", 2: "two seeds"}.get(n, f"{n} seeds")


@dataclass(frozen=True)
class At:
    """An arm against its control at one scheduler ("any": the best of each) and NFE.

    Attributes:
        frechet, control: mean distances over seeds.
        calls, control_calls: network calls of an image.
        alone: the verdict if this were the only setting.
        verdict: the verdict when all settings of the comparison count (Holm).
    """

    scheduler: str
    nfe: int
    frechet: float
    control: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    alone: Word
    verdict: Word
    seeds: int
    note: str
    calls: float
    control_calls: float

    @property
    def place(self) -> str:
        return f"{self.nfe} call{'s' * (self.nfe > 1)}" if self.scheduler == "any" else f"{self.scheduler} {self.nfe}"

    @property
    def numbers(self) -> str:
        fewer = f" in {self.control_calls:.0f}" if self.control_calls < FEWER * self.calls else ""
        return f"{self.place} ({self.frechet:.2f} against {self.control:.2f}{fewer})"


@dataclass(frozen=True)
class Verdict:
    """What is said of an arm: a word, a sentence, and the comparisons behind them.

    Attributes:
        name: of the arm.
        seeds: the smallest number of seeds that a comparison rests on; 0 without any.
    """

    name: str
    sentence: str
    verdict: Word
    seeds: int
    comparisons: tuple[At, ...] = ()

    @property
    def word(self) -> str:
        """The verdict, and "mixed" if some settings gain and others lose."""
        return "mixed" if {"gain", "worse"} <= {one.verdict for one in self.comparisons} else self.verdict

    @property
    def headline(self) -> str:
        """The word, and the number of seeds unless there are three or more."""
        return self.word if self.seeds not in (1, 2) else f"{self.word}, {seeds_in_words(self.seeds)}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sparring compare --json`."""
        return asdict(self) | {"headline": self.headline}


def verdicts(
    comparison: Comparison,
    budget: Literal["calls", "seconds"] | None = None,
    at: Setting | None = None,
    of: str | None = None,
) -> list[Verdict]:
    """For each arm that is not plain: does it help at equal scheduler, and against the best scheduler?

    The control is, at each setting, the best of the plain arms, so that a method is not helped by a control that was
    trained too little or too long. An arm whose sampler calls networks more often than its scheduler (guidance, inner
    chains) is compared with controls of as many network calls, not of as many steps. A gain inside the spread is no
    gain. The word of an arm counts all settings that it is compared at: Holm's procedure keeps the chance that any of
    them errs, when nothing differs, at 5 %. If no plain arm spent as many network calls in training, the sentence says
    so.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Args:
        comparison: the arms.
        budget: compare only with plain arms that spent at least as much on their training, in network calls (those of
            the start included) or in seconds (the equal-budget protocol of Lucic et al. 2018, "Are GANs Created
            Equal?"); None: with all of them.
        at: the one setting that counts, chosen before looking; None: all of them, with Holm's correction.
        of: the only arm that is judged, plain or not; the others are its controls.

    Returns:
        Two for each arm; none without a control.

    Raises:
        ValueError: nobody was measured at the setting `at`.
    """
    every = comparison.settings()
    if at is not None:
        at = comparison.same.get(at, at)
        if at not in every:
            known = ", ".join(f"{s.scheduler}:{s.nfe}" for s in every) or "nothing"
            raise ValueError(f"`at={at.scheduler}:{at.nfe}`: nobody was measured there; known: {known}")
    equal = [at] if at else every
    plain = [arm for arm in comparison.arms if (arm.plain if of is None else arm.name != of)]
    found = []
    for arm in comparison.arms if plain else ():
        if arm in plain:
            continue
        spent = arm.spent(budget or "calls")
        controls = [control for control in plain if budget is None or control.spent(budget) >= spent]
        short = all(control.spent(budget or "calls") < spent for control in plain)
        note = f" (no plain arm spent as many {'seconds' if budget == 'seconds' else 'network calls'})" if short else ""
        own = [setting for setting in equal if arm.distance(setting)]
        same = [
            compared(setting, [(arm, setting)], rivals(controls, every, arm.calls(setting), like=setting))
            for setting in own
        ]
        best = [
            compared(
                Setting("any", round(calls)),
                [(arm, setting) for setting in every if arm.calls(setting) == calls],
                rivals(controls, every, calls),
            )
            for calls in sorted({arm.calls(setting) for setting in own})
        ]
        found.append(sentence(arm, "At equal scheduler", note, same, at))
        found.append(sentence(arm, "Against the best scheduler at each NFE", note, best, at))
    return found


def rivals(
    controls: Sequence[Arm], settings: Sequence[Setting], calls: float, like: Setting | None = None
) -> list[tuple[Arm, Setting]]:
    """Controls at settings of at most so many network calls an image.

    Args:
        controls: the arms.
        settings: those that there are.
        calls: the most.
        like: only this setting, or others of its scheduler if that asks for fewer calls than `calls`.
    """
    found = [(arm, setting) for arm in controls for setting in settings if arm.calls(setting) <= calls * (1 + 1e-6)]
    if like is None:
        return found
    more = calls > like.nfe
    return [(arm, x) for arm, x in found if x == like or (more and x.scheduler == like.scheduler)]


def compared(name: Setting, own: Sequence[tuple[Arm, Setting]], others: Sequence[tuple[Arm, Setting]]) -> At | None:
    """The best of an arm's settings against the best of its controls'."""
    mine, its = best_of(own), best_of(others)
    if mine is None or its is None:
        return None
    result = paired_result(mine, its)
    return At(
        *name,
        mean_distance(*mine),
        mean_distance(*its),
        **asdict(result),
        alone=result.verdict,
        calls=mine[0].calls(mine[1]),
        control_calls=its[0].calls(its[1]),
    )


def best_of(places: Iterable[tuple[Arm, Setting]]) -> tuple[Arm, Setting] | None:
    """The arm and setting with the lowest mean distance, of those whose distances are finite for all seeds."""
    known = [(arm, setting) for arm, setting in places if arm.distance(setting)]
    return min(known, key=lambda pair: mean_distance(*pair), default=None)


def mean_distance(arm: Arm, setting: Setting) -> float:
    found = arm.distance(setting)
    return math.nan if found is None else found.mean


def paired_result(method: tuple[Arm, Setting], control: tuple[Arm, Setting]) -> PairedResult:
    """The paired difference of the distances over the seeds both have, its interval and the verdict.

    A control that is there only once (a pipeline) is compared with every seed. One or two seeds are judged by the
    spread of their samples (bootstrap), the larger of two; if it is not known, that is no gain.
    """
    mine, its = method[0].results(method[1]), control[0].results(control[1])
    fixed = its.get(None) if None not in mine else None
    its = dict.fromkeys(mine, fixed) if fixed else its
    seeds = sorted(set(mine) & set(its), key=str)
    if not seeds:
        difference = mean_distance(*method) - mean_distance(*control)
        return PairedResult(difference, None, 1.0, "no gain", 0, "no seed in common")
    spreads = [spread for seed in seeds if (spread := spread_of_samples(mine[seed], its[seed])) is not None]
    return paired_verdict(
        [mine[seed].frechet for seed in seeds],
        [its[seed].frechet for seed in seeds],
        spread=max(spreads) if len(spreads) == len(seeds) else None,
        shared_spread=(half_width(fixed.frechet_interval) or 0.0) if fixed else 0.0,
    )


def spread_of_samples(one: Result, other: Result) -> float | None:
    """Half-width of the 95 % bootstrap interval of the difference of two distances; None if it is not known.

    Resamples of as many images draw the same rows. Of images from the same latents they swing together, and only what
    is left of that in the difference counts.
    """
    mine, its = one.frechet_resamples, other.frechet_resamples
    if mine and its and len(mine) == len(its) and one.n == other.n:
        from scipy.special import ndtri

        return float(ndtri(1 - LEVEL / 2)) * statistics.stdev(a - b for a, b in zip(mine, its, strict=True))
    a, b = half_width(one.frechet_interval), half_width(other.frechet_interval)
    return None if a is None or b is None else math.hypot(a, b)


def half_width(interval: tuple[float, float] | None) -> float | None:
    return None if interval is None else (interval[1] - interval[0]) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: each at most LEVEL only while all smaller ones are (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def sentence(arm: Arm, heading: str, note: str, found: Sequence[At | None], at: Setting | None) -> Verdict:
    """One verdict over settings: gain if something is gained and nothing lost, worse in the reverse case, else no gain.

    The sentence names settings and, for the clearest, its two numbers.
    """
    known = [one for one in found if one is not None]
    if not known:
        return Verdict(arm.name, f"{heading}{note}: nothing to compare.", "not compared", 0)
    corrected = holm([one.p_value for one in known])
    known = [
        replace(one, verdict=one.alone if p < LEVEL else "no gain") for one, p in zip(known, corrected, strict=True)
    ]
    seeds = min(one.seeds for one in known)
    rests = [seeds_in_words(seeds) + (": spread over trainings unknown" if seeds < 3 else "")]
    if at is not None:
        rests.append(f"{at} fixed beforehand" if known[0].scheduler != "any" else f"{at.nfe} calls fixed beforehand")
    elif len(known) > 1:
        rests.append(f"corrected for {len(known)} settings")
    gains, losses = ([one for one in known if one.verdict == word] for word in ("gain", "worse"))
    parts = [f"{words} {places(ones)}" for words, ones in (("helps at", gains), ("worse at", losses)) if ones]
    rest = len(known) - len(gains) - len(losses)
    if rest and not parts:
        parts.append(
            f"no gain at {known[0].numbers}" if len(known) == 1 else f"no gain at any of {len(known)} settings"
        )
    elif rest:
        parts.append(f"no gain at the other {rest}" if rest > 1 else "no gain at the other")
    if by_itself := [one.place for one in known if one.alone == "gain" and one.verdict == "no gain"]:
        parts.append(f"{' and '.join(by_itself[:2])} would be a gain only without the correction")
    word: Word = "gain" if gains and not losses else "worse" if losses and not gains else "no gain"
    return Verdict(arm.name, f"{heading}{note} ({'; '.join(rests)}): {'; '.join(parts)}.", word, seeds, tuple(known))


def places(ones: Sequence[At]) -> str:
    """Settings in words, the one with the largest ratio first and with its numbers."""
    first = max(ones, key=lambda one: abs(math.log(max(one.frechet, 1e-12) / max(one.control, 1e-12))))
    others = [one.place for one in ones if one is not first]
    more = [f"{len(others) - NAMED} more"] if len(others) > NAMED + 1 else others[NAMED:]
    return ", ".join([first.numbers, *others[:NAMED], *more])
