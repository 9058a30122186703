"""Arms over seeds: only what was measured alike is compared, the same images count once, costs are means over seeds."""

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.evaluation import Comparison, verdicts
from sparring.runs import Result, RunSummary, Setting

DDIM, DPM = Setting("ddim", 5), Setting("dpm", 5)


def runs(name: str, method: str, frechet: dict[tuple[str, int], list[float]], calls: int = 100) -> list[RunSummary]:
    """One run for each seed of an arm."""
    return [
        RunSummary(
            name=f"{name}-s{seed}",
            folder=Path(f"{name}-s{seed}"),
            arm=name,
            method=method,
            seed=seed,
            step=10,
            network_calls=calls,
            network_calls_before=0,
            results=tuple(
                Result(scheduler=s, nfe=n, frechet=v[seed], frechet_interval=(v[seed] - 0.1, v[seed] + 0.1))
                for (s, n), v in frechet.items()
            ),
        )
        for seed in range(len(next(iter(frechet.values()))))
    ]


def with_results(run: RunSummary, *changes: dict) -> RunSummary:
    """A run with changed copies of its first result in place of its own."""
    return replace(run, results=tuple(replace(run.results[0], **change) for change in changes))


def verdicts_of(found: list[RunSummary], **settings):
    return verdicts(Comparison.of(found), **settings)


def pair(plain: float = 10.0, adt: float = 0.1) -> tuple[RunSummary, RunSummary]:
    return runs("plain", "Diffusion", {DDIM: [plain]})[0], runs("adt", "ADT", {DDIM: [adt]})[0]


CLASSIFIER = {"features": "classifier 32-64-64", "n": 1000, "n_reference": 500, "seed": 0}
PIXELS = {"features": "pixels pooled to 4x4", "n": 200, "n_reference": 500, "seed": 0}


def test_numbers_of_an_arm_are_means_and_deviations_over_its_seeds():
    made = runs("adt", "ADT", {DDIM: [1.0, 2.0, 6.0]})
    made[2] = replace(made[2], network_calls=400, network_calls_before=50, seconds_per_step=0.5)
    (arm,) = Comparison.of(made).arms
    assert arm.seeds == [0, 1, 2]
    assert (arm.distance(DDIM).mean, arm.distance(DDIM).deviation) == (3.0, pytest.approx(7**0.5))
    assert arm.cost("network_calls").mean == 200
    assert arm.spent("calls") == pytest.approx(200 + 50 / 3)  # the start counts
    assert arm.cost("seconds_per_step") is None  # not known of every seed
    assert arm.estimate("recall", DDIM) is None


def test_one_seed_has_the_interval_of_its_samples():
    (arm,) = Comparison.of(runs("adt", "ADT", {DDIM: [1.0]})).arms
    assert (arm.distance(DDIM).low, arm.distance(DDIM).high, arm.distance(DDIM).deviation) == (0.9, 1.1, None)


def test_a_seed_that_is_not_finite_leaves_no_mean():
    comparison = Comparison.of(runs("adt", "ADT", {DDIM: [1.0, float("nan"), 2.0]}))
    assert comparison.arms[0].distance(DDIM) is None
    plain = runs("plain", "Diffusion", {DDIM: [1.0, 1.0, 1.0]})
    assert verdicts_of([*plain, *runs("adt", "ADT", {DDIM: [0.1, float("nan"), 0.1]})])[0].verdict == "not compared"


def test_only_what_was_measured_alike_is_compared():
    plain, adt = pair(10.0, 9.9)
    both = with_results(adt, CLASSIFIER, PIXELS | {"frechet": 0.2, "frechet_interval": (0.1, 0.3)})
    made = [with_results(plain, CLASSIFIER), both]
    for found in (verdicts_of(made), verdicts_of(made[::-1])):
        assert found[0].comparisons[0].frechet == 9.9
        assert [v.verdict for v in found] == ["no gain", "no gain"]
    comparison = Comparison.of(made)
    assert comparison.arms[1].distance(DDIM).values == (9.9,)
    assert comparison.left_out == {adt.folder: 1}


@pytest.mark.parametrize(
    "change",
    [{"n": 200}, {"n_reference": 9}, {"seed": 1}, {"split": "validation"}, {"reference": "other"}, {"train": "other"}]
    + [{"reference_looks": "1x16x16 -0.847 0.449"}],
)
def test_what_was_measured_otherwise_is_not_compared(change):
    looks = {"reference_looks": "1x8x8 -0.389 0.752"}
    own = CLASSIFIER | {"split": "holdout", "reference": "digits:holdout", "train": "digits"} | looks
    plain, adt = pair()
    found = verdicts_of([with_results(plain, own), with_results(adt, own | change)])
    assert all("nothing to compare" in v.sentence and v.verdict == "not compared" for v in found)
    assert verdicts_of([with_results(plain, own), with_results(adt, own)])[0].verdict == "gain"


def test_images_trained_on_matter_only_to_features_that_learned_from_them():
    plain, adt = pair()
    made = [with_results(plain, PIXELS | {"train": "half"}), with_results(adt, PIXELS | {"train": "whole"})]
    assert verdicts_of(made)[0].verdict == "gain"


def test_one_protocol_holds_for_a_whole_comparison():
    plain = runs("plain", "Diffusion", {DDIM: [10.0], DPM: [1.0]})[0]
    adt = runs("adt", "ADT", {DDIM: [8.0], DPM: [0.1]})[0]
    plain, adt = (
        replace(run, results=(replace(run.results[0], **CLASSIFIER), replace(run.results[1], **PIXELS)))
        for run in (plain, adt)
    )
    equal, _ = verdicts_of([plain, adt])
    assert [(c.scheduler, c.nfe) for c in equal.comparisons] == [("dpm", 5)]  # of equals the latest
    adt = replace(adt, results=(*adt.results, replace(adt.results[0], scheduler="euler")))
    equal, best = verdicts_of([plain, adt])
    assert [(c.scheduler, c.nfe) for c in equal.comparisons] == [("ddim", 5)]  # most results
    assert best.comparisons[0].control == 10.0


def test_a_result_that_does_not_name_its_reference_joins_neither_of_two_others():
    """What says less must not make comparable what is not."""
    old, a, b = CLASSIFIER, CLASSIFIER | {"reference": "a"}, CLASSIFIER | {"reference": "b"}
    makes = [("old", "Diffusion", old, 5.0), ("plain", "Diffusion", b, 1.0), ("adt", "ADT", a, 3.0)]
    found = [with_results(runs(name, kind, {DDIM: [x]})[0], way) for name, kind, way, x in makes]
    compared = verdicts_of(found)[0].comparisons[0]
    assert (compared.frechet, compared.control) == (3.0, 5.0)


def test_two_runs_of_one_arm_and_seed_are_refused_by_their_folders():
    one, other = (runs("sadm", "SADM", {DDIM: [x]})[0] for x in (1.0, 2.0))
    one, other = replace(one, folder=Path("a/sadm")), replace(other, folder=Path("b/sadm"))
    with pytest.raises(ValueError, match=r"a/sadm and b/sadm are both seed 0 of the arm `sadm`"):
        Comparison.of([one, other])
    assert len(Comparison.of([one, replace(other, seed=1)]).arms) == 1


def with_kernels(made: list[RunSummary], kernels: dict[tuple[str, int], float]) -> list[RunSummary]:
    """The runs with a kernel distance for each setting, larger with the seed."""
    return [
        replace(
            run, results=tuple(replace(r, kernel=kernels[r.scheduler, r.nfe] + (run.seed or 0)) for r in run.results)
        )
        for run in made
    ]


def test_the_same_images_are_not_counted_twice():
    """DPM-Solver++ with two calls is DDIM with two calls."""
    kernels = {("ddim", 2): 0.5, ("dpm", 2): 0.5 * (1 + 1e-8), ("dpm", 5): 0.1, ("ddim", 5): 0.2}
    plain = {
        ("ddim", 2): [3.0, 3.1],
        ("dpm", 2): [3.0, 3.1 * (1 + 1e-9)],
        ("ddim", 5): [1.0, 1.0],
        ("dpm", 5): [1.0, 1.0],
    }
    made = with_kernels(runs("plain", "Diffusion", plain), kernels)
    made += with_kernels(runs("adt", "ADT", {("dpm", 2): [2.0, 2.0], ("dpm", 5): [1.0, 1.0]}), kernels)
    comparison = Comparison.of(made)
    assert comparison.same == {("dpm", 2): ("ddim", 2)}
    assert comparison.settings() == [("ddim", 2), ("ddim", 5), ("dpm", 5)]  # at 5 the kernels differ
    assert [result.scheduler for result in comparison.arms[0].runs[0].results] == ["ddim", "ddim", "dpm"]
    equal = verdicts(comparison)[0]
    assert [(c.scheduler, c.nfe) for c in equal.comparisons] == [("ddim", 2), ("dpm", 5)]
    other = with_kernels(runs("sadm", "SADM", {("ddim", 2): [1.0], ("dpm", 2): [1.1]}), kernels)
    assert Comparison.of([*made, *other]).same == {}  # not the same in every run
