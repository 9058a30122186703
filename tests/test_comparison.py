"""Verdicts over runs: the control is the best plain arm, and a gain inside the spread is no gain."""

from sparring.comparison import verdicts


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
