"""Verdicts: the control is the best plain arm, a gain inside the spread is no gain, and many settings make no gain."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel
from test_comparison import DDIM, pair, runs, verdicts_of, with_results

from sparring.evaluation import Comparison, paired_verdict
from sparring.evaluation.verdict import Verdict, holm, verdicts
from sparring.runs import RunSummary, Setting

PLAIN = runs("plain", "Diffusion", {("ddim", 5): [1.0, 1.1, 0.9], ("dpm", 5): [0.6, 0.7, 0.5]})


def verdict_of(found: list[Verdict], where: str) -> Verdict:
    return next(v for v in found if v.sentence.startswith(where))


def test_a_gain_with_one_scheduler_is_none_against_the_best_one():
    found = verdicts_of(PLAIN + runs("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]}))
    equal = verdict_of(found, "At equal scheduler")
    assert equal.verdict == "gain"
    assert equal.comparisons[0].difference == pytest.approx(-0.4)
    assert equal.sentence == "At equal scheduler (3 seeds): helps at ddim 5 (0.60 against 1.00)."
    assert verdict_of(found, "Against the best").verdict == "no gain"


def test_an_image_of_more_calls_than_steps_is_compared_with_as_many_calls():
    plain = runs("plain", "Diffusion", {("ddim", 2): [5.0, 5.1, 4.9], ("ddim", 40): [0.5, 0.6, 0.4]})
    plain = [replace(run, results=tuple(replace(one, calls=one.nfe) for one in run.results)) for run in plain]
    nested = runs("nested", "nested", {("ddim", 2): [0.6, 0.7, 0.5]})
    dear = [replace(run, results=(replace(run.results[0], calls=40.0),)) for run in nested]
    equal, best = verdicts_of(plain + dear)
    assert equal.sentence == "At equal scheduler (3 seeds): worse at ddim 2 (0.60 against 0.50)."
    assert best.sentence == "Against the best scheduler at each NFE (3 seeds): worse at 40 calls (0.60 against 0.50)."
    cheap = [replace(run, results=(replace(run.results[0], calls=39.0),)) for run in nested]
    found = verdicts_of(plain + cheap)
    assert found[0].sentence == "At equal scheduler (3 seeds): helps at ddim 2 (0.60 against 5.00 in 2)."
    assert [one.comparisons[0].control for one in found] == [5.0, 5.0]
    assert [one.comparisons[0].control for one in verdicts_of(plain + nested)] == [5.0, 5.0]  # none was counted


def test_an_arm_that_is_named_is_judged_plain_or_not():
    quick = runs("flow", "Diffusion", {("ddim", 5): [0.6, 0.7, 0.5]})
    assert verdicts_of(PLAIN + quick) == []
    found = verdicts(Comparison.of(PLAIN + quick), of="flow")
    assert [(one.name, one.verdict) for one in found] == [("flow", "gain"), ("flow", "no gain")]


def test_seeds_that_are_missing_leave_no_mean():
    short = runs("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5], ("dpm", 5): [0.3, 0.3, 0.3]})
    short[2] = replace(short[2], results=short[2].results[:1])
    (arm,) = Comparison.of(short).arms
    assert arm.estimate("frechet", Setting("ddim", 5)).mean == pytest.approx(0.6)
    assert arm.estimate("frechet", Setting("dpm", 5)) is None


def test_a_control_of_fewer_calls_counts_against_the_best():
    plain = runs("plain", "Diffusion", {("unipc", 10): [0.4, 0.5, 0.3], ("unipc", 50): [0.5, 0.6, 0.4]})
    equal, best = verdicts_of(plain + runs("ddo", "DDO", {("unipc", 50): [0.45, 0.55, 0.35]}))
    assert (equal.verdict, best.verdict) == ("gain", "worse")
    assert best.comparisons[0].control == pytest.approx(0.4)


def test_a_gain_inside_the_spread_over_seeds_is_no_gain():
    found = verdicts_of(PLAIN + runs("sadm", "SADM", {("ddim", 5): [0.8, 1.2, 0.9]}))  # -0.2, +0.1, 0
    assert verdict_of(found, "At equal scheduler").verdict == "no gain"


def test_one_seed_is_judged_by_its_bootstrap_interval_and_says_so():
    near, far = verdicts_of(list(pair(1.0, 0.9))), verdicts_of(list(pair(1.0, 0.8)))  # half-width 0.1 * sqrt(2) = 0.14
    assert near[0].verdict == "no gain"
    for verdict in far:
        assert (verdict.verdict, verdict.headline, verdict.seeds) == ("gain", "gain, one seed", 1)
        assert "(one seed: spread over trainings unknown)" in verdict.sentence
    assert far[0].comparisons[0].note == "one seed: spread of the samples only"


def test_of_one_seed_the_spread_is_that_of_the_difference_when_both_were_resampled():
    plain, adt = pair(1.0, 0.9)  # intervals of 0.1 around each: no gain by themselves
    together = {"frechet_resamples": [0.8, 1.0, 1.3]}, {"frechet_resamples": [0.71, 0.9, 1.19]}
    apart = {"frechet_resamples": [0.8, 1.0, 1.3]}, {"frechet_resamples": [1.19, 0.9, 0.71]}
    for (its, mine), word in ((together, "gain"), (apart, "no gain")):
        at = verdicts_of([with_results(plain, its), with_results(adt, mine)])[0].comparisons[0]
        half = 1.959964 * np.std(np.subtract(mine["frechet_resamples"], its["frechet_resamples"]), ddof=1)
        assert at.verdict == word
        assert at.interval == pytest.approx((-0.1 - half, -0.1 + half))
    of_another_number = with_results(adt, together[1] | {"n": 77})
    assert verdicts_of([with_results(plain, together[0]), of_another_number])[0].verdict != "gain"


def test_of_two_seeds_the_larger_spread_counts():
    plain, adt = runs("plain", "Diffusion", {DDIM: [1.0, 1.0]}), runs("adt", "ADT", {DDIM: [0.8, 0.8]})
    assert verdicts_of(plain + adt)[0].headline == "gain, two seeds"
    for seed in (0, 1):  # half-width 0.2 of one of the two: sqrt(0.2^2 + 0.1^2) = 0.22
        wide = [*adt]
        wide[seed] = with_results(adt[seed], {"frechet_interval": (0.6, 1.0)})
        found = verdicts_of(plain + wide)[0]
        assert found.verdict == "no gain"
        assert found.comparisons[0].interval == pytest.approx((-0.2 - 0.05**0.5, -0.2 + 0.05**0.5))


def test_one_seed_without_an_interval_is_no_gain():
    wide = {"frechet_interval": None}  # as in features of more than 128 dimensions
    plain, adt = pair(1.0, 0.1)
    for made in ([with_results(plain, wide), adt], [plain, with_results(adt, wide)]):
        compared = verdicts_of(made)[0].comparisons[0]
        assert (compared.verdict, compared.interval) == ("no gain", None)
        assert compared.note == "one seed: no spread known"


def test_the_control_is_the_best_plain_arm():
    worse = runs("plain-long", "Diffusion", {("ddim", 5): [2.0, 2.1, 1.9]}, calls=1000)
    found = verdicts_of(PLAIN + worse + runs("adt", "ADT", {("ddim", 5): [1.5, 1.6, 1.4]}))
    assert verdict_of(found, "At equal scheduler").verdict == "worse"


def test_an_arm_that_gains_here_and_loses_there_is_mixed():
    settings = [("ddim", 5), ("ddim", 20)]
    plain = runs("plain", "Diffusion", {s: [1.0, 1.1, 0.9] for s in settings})
    adt = runs("adt", "ADT", {settings[0]: [0.6, 0.7, 0.5], settings[1]: [1.4, 1.5, 1.3]})
    for found in verdicts_of(plain + adt):
        assert (found.verdict, found.word) == ("no gain", "mixed")
        assert "helps at" in found.sentence
        assert "worse at" in found.sentence


def test_a_dearer_method_is_marked():
    found = verdicts_of(PLAIN + runs("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]}, calls=500))
    assert "no plain arm spent as many network calls" in found[0].sentence


def test_without_a_plain_arm_there_is_no_verdict():
    assert verdicts_of(runs("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]})) == []


def test_an_equal_budget_leaves_out_plain_arms_that_spent_less():
    long = runs("plain-long", "Diffusion", {("ddim", 5): [1.5, 1.6, 1.4]}, calls=1000)
    dear = runs("adt", "ADT", {("ddim", 5): [1.2, 1.3, 1.1]}, calls=500)
    assert verdict_of(verdicts_of(PLAIN + long + dear), "At equal scheduler").verdict == "worse"
    assert verdict_of(verdicts_of(PLAIN + long + dear, budget="calls"), "At equal scheduler").verdict == "gain"
    alone = verdicts_of(PLAIN + dear, budget="calls")[0]
    assert (alone.verdict, alone.headline) == ("not compared", "not compared")
    assert "nothing to compare" in alone.sentence


def pipeline(*values: float) -> RunSummary:
    """A model without a seed of its training, measured at ddim 5."""
    (run,) = runs("base", "pipeline", {DDIM: [values[0]]})
    return RunSummary(name="base", folder=run.folder, arm="base", method="pipeline", results=run.results)


def test_a_pipeline_is_the_control_of_every_seed():
    adt = runs("adt", "ADT", {DDIM: [0.70, 0.71, 0.69]})
    found = verdicts_of([pipeline(1.0), *adt])[0]
    assert (found.verdict, found.seeds) == ("gain", 3)
    assert found.comparisons[0].difference == pytest.approx(-0.3)
    # its own samples swing by 0.1, which three seeds share: Student's quantile of two degrees is 4.30
    error = math.hypot(0.01 / 3**0.5, 0.1 / 1.95996)
    assert found.comparisons[0].interval[1] == pytest.approx(-0.3 + 4.30265 * error, rel=1e-4)
    near = verdicts_of([pipeline(0.9), *adt])[0]
    assert near.verdict == "no gain"


def test_holm_is_the_textbook_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979, by hand
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_word_counts_all_settings_unless_one_was_fixed_beforehand():
    generator = np.random.default_rng(0)
    settings = [("ddim", nfe) for nfe in range(2, 12)]
    plain = {setting: list(1 + 0.01 * generator.normal(size=3)) for setting in settings}
    adt = dict(plain)
    adt["ddim", 5] = [x - 0.05 + d for x, d in zip(plain["ddim", 5], (0.0, 0.015, -0.015), strict=True)]  # p = 0.03
    made = runs("plain", "Diffusion", plain) + runs("adt", "ADT", adt)
    found = verdicts_of(made)[0]
    assert found.verdict == "no gain"
    assert "3 seeds; corrected for 10 settings" in found.sentence
    assert "ddim 5 would be a gain only without the correction" in found.sentence
    five = next(c for c in found.comparisons if c.nfe == 5)
    assert (five.alone, five.verdict) == ("gain", "no gain")
    fixed = verdicts_of(made, at=Setting("ddim", 5))
    assert [v.verdict for v in fixed] == ["gain", "gain"]
    assert "ddim 5 fixed beforehand" in fixed[0].sentence
    with pytest.raises(ValueError, match=r"`at=dpm:5`: nobody was measured there; known: ddim:2, "):
        verdicts_of(made, at=Setting("dpm", 5))


def test_sentences_are_short_and_carry_two_numbers():
    settings = [(name, nfe) for name in ("ddim", "dpm", "euler", "unipc") for nfe in (2, 5, 10, 20)]
    plain = runs("plain", "Diffusion", {s: [1.0, 1.1, 0.9] for s in settings})
    adt = runs("adt", "ADT", {s: [x / (2 + s[1]) for x in (1.0, 1.1, 0.9)] for s in settings})
    for verdict in verdicts_of(plain + adt):
        assert len(verdict.sentence) < 260
        assert verdict.sentence.count("against") <= 1 + verdict.sentence.startswith("Against")


@pytest.mark.parametrize("count", [1, 10])
def test_under_the_null_gains_are_as_rare_as_the_level_says(count):
    """Seeds of both arms from one law: a two-sided 5 % level makes a "gain" in 2.5 % of all comparisons, at most."""
    generator = np.random.default_rng(count)
    settings = [("ddim", 2 + i) for i in range(count)]
    repeats, words = 400, []
    for _ in range(repeats):
        plain, adt = ({s: list(generator.normal(1, 0.1, size=3)) for s in settings} for _ in range(2))
        words.append([v.verdict for v in verdicts_of(runs("plain", "Diffusion", plain) + runs("adt", "ADT", adt))])
    for which in (0, 1):  # at equal scheduler; against the best
        gains = sum(found[which] == "gain" for found in words)
        errors = gains + sum(found[which] == "worse" for found in words)
        assert 1 <= gains <= 22  # 10 expected; three deviations above are 19
        assert 6 <= errors <= 36  # 20 expected (a little less for ten settings); without the correction 160 of 400


def test_under_the_null_one_seed_is_not_called_a_gain_by_its_samples():
    """If only the samples swing, the bootstrap intervals know all of the spread."""
    generator = np.random.default_rng(3)
    settings = [("ddim", 2 + i) for i in range(10)]
    half = 1.96 * 0.05
    words = []
    for _ in range(400):
        made = []
        for name, method in (("plain", "Diffusion"), ("adt", "ADT")):
            (run,) = runs(name, method, {s: [generator.normal(1, 0.05)] for s in settings})
            made.append(
                with_results(
                    run,
                    *(
                        {
                            "scheduler": r.scheduler,
                            "nfe": r.nfe,
                            "frechet": r.frechet,
                            "frechet_interval": (r.frechet - half, r.frechet + half),
                        }
                        for r in run.results
                    ),
                )
            )
        words.append(verdicts_of(made)[0].verdict)
    assert 2 <= words.count("gain") <= 22
    assert 6 <= words.count("gain") + words.count("worse") <= 36


def test_a_verdict_is_the_paired_t_interval() -> None:
    method, control = [0.50, 0.61, 0.42, 0.55], [0.80, 0.95, 0.74, 0.83]
    found = paired_verdict(method, control)
    expected = ttest_rel(method, control).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.p_value == pytest.approx(ttest_rel(method, control).pvalue)
    assert (found.verdict, found.seeds) == ("gain", 4)
    assert found.difference == pytest.approx(-0.31)
    assert paired_verdict(control, method).verdict == "worse"


def test_differences_inside_their_spread_are_no_gain() -> None:
    assert paired_verdict([0.5, 0.9, 0.6], [0.7, 0.8, 0.75]).verdict == "no gain"
    assert paired_verdict([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).verdict == "no gain"
    for spread, verdict in ((0.21, "no gain"), (0.19, "gain")):  # of a difference of -0.2
        assert paired_verdict([0.5], [0.7], spread=spread).verdict == verdict


def test_few_seeds_say_so() -> None:
    alone = paired_verdict([0.1], [0.9])
    assert (alone.verdict, alone.interval, alone.p_value) == ("no gain", None, 1.0)
    assert alone.note == "one seed: no spread known"
    spread = paired_verdict([0.1], [0.9], spread=0.3)
    assert (spread.verdict, spread.note) == ("gain", "one seed: spread of the samples only")
    assert spread.interval == pytest.approx((-1.1, -0.5))
    assert paired_verdict([0.1], [0.9], spread=0.9).verdict == "no gain"
    assert paired_verdict([0.1, 0.2], [0.9, 0.9], spread=0.1).note.startswith("two seeds")
    with pytest.raises(ValueError, match="same order"):
        paired_verdict([0.1, 0.2], [0.9])
    with pytest.raises(ValueError, match="not finite"):
        paired_verdict([float("nan")] * 3, [0.9] * 3)


def test_two_seeds_that_disagree_are_no_gain():
    assert paired_verdict([1.0, 5.0], [4.0, 4.0], spread=0.1).verdict == "no gain"
    assert paired_verdict([1.0, 1.2], [4.0, 4.0], spread=0.1).verdict == "gain"
