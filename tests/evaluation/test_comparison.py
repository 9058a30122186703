"""Verdicts over runs: the control is the best plain arm, and a gain inside the spread is no gain."""

import pytest

from sparring.evaluation import verdicts
from sparring.evaluation.comparison import alike, measured


def rows(name: str, method: str, frechet: dict[tuple[str, int], list[float]], calls: int = 100) -> list[dict]:
    """One row for each seed of an arm."""
    seeds = len(next(iter(frechet.values())))
    return [
        {
            "name": f"{name}-s{seed}",
            "arm": name,
            "method": method,
            "seed": seed,
            "network_calls": calls,
            "results": [
                {"scheduler": s, "nfe": n, "frechet": v[seed], "frechet_interval": [v[seed] - 0.1, v[seed] + 0.1]}
                for (s, n), v in frechet.items()
            ],
        }
        for seed in range(seeds)
    ]


PLAIN = rows("plain", "Diffusion", {("ddim", 5): [1.0, 1.1, 0.9], ("dpm", 5): [0.6, 0.7, 0.5]})


def verdict_of(found: list[dict], where: str) -> dict:
    return next(v for v in found if v["sentence"].startswith(where))


def test_a_gain_with_one_scheduler_is_none_against_the_best_one():
    found = verdicts(PLAIN + rows("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]}))
    equal = verdict_of(found, "At equal scheduler")
    assert equal["verdict"] == "gain"
    assert abs(equal["comparisons"][0]["difference"] + 0.4) < 1e-9
    assert "ddim 5 (0.60 against 1.00)" in equal["sentence"]
    assert verdict_of(found, "Against the best")["verdict"] == "no gain"


def test_a_gain_inside_the_spread_over_seeds_is_no_gain():
    found = verdicts(PLAIN + rows("sadm", "SADM", {("ddim", 5): [0.8, 1.2, 0.9]}))  # -0.2, +0.1, 0
    assert verdict_of(found, "At equal scheduler")["verdict"] == "no gain"


def test_one_seed_is_judged_by_its_bootstrap_interval():
    plain = rows("plain", "Diffusion", {("ddim", 5): [1.0]})
    near = verdicts(plain + rows("a", "ADT", {("ddim", 5): [0.9]}))  # half-width sqrt(0.1^2 + 0.1^2) = 0.14
    far = verdicts(plain + rows("a", "ADT", {("ddim", 5): [0.8]}))
    assert near[0]["verdict"] == "no gain"
    assert far[0]["verdict"] == "gain"


def test_the_control_is_the_best_plain_arm():
    worse = rows("plain-long", "Diffusion", {("ddim", 5): [2.0, 2.1, 1.9]}, calls=1000)
    found = verdicts(PLAIN + worse + rows("adt", "ADT", {("ddim", 5): [1.5, 1.6, 1.4]}))
    assert verdict_of(found, "At equal scheduler")["verdict"] == "worse"


def test_a_dearer_method_is_marked():
    found = verdicts(PLAIN + rows("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]}, calls=500))
    assert "no plain arm spent as many network calls" in found[0]["sentence"]


def test_without_a_plain_arm_there_is_no_verdict():
    assert verdicts(rows("adt", "ADT", {("ddim", 5): [0.6, 0.7, 0.5]})) == []


def test_an_equal_budget_leaves_out_plain_arms_that_spent_less():
    long = rows("plain-long", "Diffusion", {("ddim", 5): [1.5, 1.6, 1.4]}, calls=1000)
    dear = rows("adt", "ADT", {("ddim", 5): [1.2, 1.3, 1.1]}, calls=500)
    assert verdict_of(verdicts(PLAIN + long + dear), "At equal scheduler")["verdict"] == "worse"
    assert verdict_of(verdicts(PLAIN + long + dear, budget="calls"), "At equal scheduler")["verdict"] == "gain"
    assert "nothing to compare" in verdicts(PLAIN + dear, budget="calls")[0]["sentence"]


def with_results(row: dict, *results: dict) -> dict:
    """A run with results in place of its own."""
    return row | {"results": [row["results"][0] | result for result in results]}


def test_one_seed_without_an_interval_is_no_gain():
    wide = {"frechet_interval": None}  # as in features of more than 128 dimensions
    plain, adt = rows("plain", "Diffusion", {("ddim", 5): [1.0]})[0], rows("adt", "ADT", {("ddim", 5): [0.1]})[0]
    for pair in ([with_results(plain, wide), adt], [plain, with_results(adt, wide)]):
        compared = verdicts(pair)[0]["comparisons"][0]
        assert (compared["verdict"], compared["interval"]) == ("no gain", None)
        assert compared["note"] == "one seed: no spread known"


CLASSIFIER = {"features": "classifier 32-64-64", "n": 1000, "n_reference": 500, "seed": 0}
PIXELS = {"features": "pixels pooled to 4x4", "n": 200, "n_reference": 500, "seed": 0}


def test_only_what_was_measured_alike_is_compared():
    plain, adt = rows("plain", "Diffusion", {("ddim", 5): [10.0]})[0], rows("adt", "ADT", {("ddim", 5): [9.9]})[0]
    both = with_results(adt, CLASSIFIER, PIXELS | {"frechet": 0.2, "frechet_interval": [0.1, 0.3]})
    pair = [with_results(plain, CLASSIFIER), both]
    for found in (verdicts(pair), verdicts(pair[::-1])):
        assert found[0]["comparisons"][0]["frechet"] == 9.9
        assert [v["verdict"] for v in found] == ["no gain", "no gain"]
    assert measured(alike(pair), "adt", ("ddim", 5)).values == {0: 9.9}


@pytest.mark.parametrize(
    "change",
    [{"n": 200}, {"n_reference": 9}, {"seed": 1}, {"split": "validation"}, {"reference": "other"}, {"train": "other"}],
)
def test_what_was_measured_otherwise_is_not_compared(change):
    own = CLASSIFIER | {"split": "holdout", "reference": "digits:holdout", "train": "digits"}
    plain, adt = rows("plain", "Diffusion", {("ddim", 5): [10.0]})[0], rows("adt", "ADT", {("ddim", 5): [0.1]})[0]
    found = verdicts([with_results(plain, own), with_results(adt, own | change)])
    assert all("nothing to compare" in v["sentence"] for v in found)
    assert verdicts([with_results(plain, own), with_results(adt, own)])[0]["verdict"] == "gain"


def test_images_trained_on_matter_only_to_features_that_learned_from_them():
    plain, adt = rows("plain", "Diffusion", {("ddim", 5): [10.0]})[0], rows("adt", "ADT", {("ddim", 5): [0.1]})[0]
    pair = [with_results(plain, PIXELS | {"train": "half"}), with_results(adt, PIXELS | {"train": "whole"})]
    assert verdicts(pair)[0]["verdict"] == "gain"


def test_one_way_holds_for_a_whole_comparison():
    both = {("ddim", 5): [10.0], ("dpm", 5): [1.0]}
    plain, adt = rows("plain", "Diffusion", both)[0], rows("adt", "ADT", {("ddim", 5): [8.0], ("dpm", 5): [0.1]})[0]
    for row in (plain, adt):
        row["results"] = [row["results"][0] | CLASSIFIER, row["results"][1] | PIXELS]
    (equal, best) = verdicts([plain, adt])
    assert [(c["scheduler"], c["nfe"]) for c in equal["comparisons"]] == [("dpm", 5)]  # of equals the latest
    adt["results"].append(adt["results"][0] | {"scheduler": "euler"})
    (equal, best) = verdicts([plain, adt])
    assert [(c["scheduler"], c["nfe"]) for c in equal["comparisons"]] == [("ddim", 5)]  # most results
    assert best["comparisons"][0]["control"] == 10.0


def test_a_result_that_does_not_name_its_reference_joins_neither_of_two_others():
    """What says less must not make comparable what is not."""
    old, a, b = CLASSIFIER, CLASSIFIER | {"reference": "a"}, CLASSIFIER | {"reference": "b"}
    makes = [("old", "Diffusion", old, 5.0), ("plain", "Diffusion", b, 1.0), ("adt", "ADT", a, 3.0)]
    found = [with_results(rows(name, kind, {("ddim", 5): [x]})[0], way) for name, kind, way, x in makes]
    compared = verdicts(found)[0]["comparisons"][0]
    assert (compared["frechet"], compared["control"]) == (3.0, 5.0)


def test_two_runs_of_one_arm_and_seed_are_refused_by_their_folders():
    one, other = (rows("sadm", "SADM", {("ddim", 5): [x]})[0] for x in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"a/sadm and b/sadm are both seed 0 of the arm `sadm`"):
        verdicts([*PLAIN, one | {"folder": "a/sadm"}, other | {"folder": "b/sadm"}])
    assert verdicts([*PLAIN, one | {"folder": "a/sadm"}, other | {"folder": "b/sadm", "seed": 1}])
