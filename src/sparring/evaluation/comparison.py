"""Runs side by side: one row for each, and for each arm a verdict against the plain runs, over seeds."""

from dataclasses import dataclass
from typing import Any, Literal

from sparring.evaluation.verdict import paired_verdict
from sparring.runs.results import common_way, measured_alike

Setting = tuple[str, int]
"""Scheduler and network calls."""


def settings(rows: list[dict[str, Any]]) -> list[Setting]:
    """Every scheduler and number of calls that somebody was measured with, in order."""
    found = {(result["scheduler"], result["nfe"]) for r in rows for result in r["results"] if result.get("nfe")}
    return sorted(found)


@dataclass
class Measured:
    """Frechet distances of one arm at one setting: seed -> value, and half the width of its bootstrap interval (None
    where it has none)."""

    values: dict[Any, float]
    widths: dict[Any, float | None]

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)


def alike(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with those results alone that were measured in one way, that of most results (see `common_way`)."""
    way = common_way([result for r in rows for result in r["results"]])
    return [r | {"results": [result for result in r["results"] if measured_alike(result, way)]} for r in rows]


def results_at(rows: list[dict[str, Any]], arm: str, setting: Setting) -> dict[Any, dict[str, Any]]:
    """The arm's results at a setting by seed (of two results of a run the later one)."""
    mine = [(r["seed"], result) for r in rows if r["arm"] == arm for result in r["results"]]
    return {seed: result for seed, result in mine if (result["scheduler"], result["nfe"]) == setting}


def measured(rows: list[dict[str, Any]], arm: str, setting: Setting) -> Measured | None:
    """The arm's distances at a setting; None where there are none."""
    results = results_at(rows, arm, setting)
    intervals = {seed: result.get("frechet_interval") for seed, result in results.items()}
    widths = {seed: (at[1] - at[0]) / 2 if at else None for seed, at in intervals.items()}
    return Measured({seed: result["frechet"] for seed, result in results.items()}, widths) if results else None


def judge(method: Measured, control: Measured) -> dict[str, Any]:
    """The paired difference over the seeds both have, its interval and the verdict.

    One or two seeds are judged by the spread of their samples (bootstrap); where it is not known, that is no gain.
    """
    seeds = sorted(set(method.values) & set(control.values), key=str)
    if not seeds:
        difference = method.mean - control.mean
        return {"verdict": "no gain", "difference": difference, "interval": None, "note": "no seed in common"}
    widths = [(method.widths[s], control.widths[s]) for s in seeds]
    spreads = [(a**2 + b**2) ** 0.5 for a, b in widths if a is not None and b is not None]
    spread = max(spreads) if len(spreads) == len(seeds) else None
    return paired_verdict([method.values[s] for s in seeds], [control.values[s] for s in seeds], spread=spread)


def verdicts(rows: list[dict[str, Any]], budget: Literal["calls", "seconds"] | None = None) -> list[dict[str, Any]]:
    """For each arm that is not plain diffusion: does it help at equal scheduler, and against the best scheduler?

    The control is, at each setting, the best of the plain arms, so that a method is not helped by a control that was
    trained too little or too long. Only results that were measured alike are compared. A gain inside the spread is no
    gain. Where no plain arm spent as many network calls in training, the sentence says so.

    Args:
        rows: one for each run, see `row`.
        budget: compare only with plain arms that spent at least as much on their training, in network calls or in
            seconds (the equal-budget protocol of Lucic et al. 2018, "Are GANs Created Equal?"); None: with all of them.

    Returns:
        Two for each arm: "name", "sentence", "verdict", and "comparisons": one for each setting with "scheduler",
        "nfe", "frechet", "control", "difference", "interval" and "verdict".

    Raises:
        ValueError: two runs are the same seed of the same arm.
    """
    check_seeds(rows)
    rows = alike(rows)
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    spent = {arm: max(cost(r, budget or "calls") for r in rows if r["arm"] == arm) for arm in arms}
    plain = [arm for arm in arms if all(r["method"] == "Diffusion" for r in rows if r["arm"] == arm)]
    every = settings(rows)
    found: list[dict[str, Any]] = []
    for arm in [arm for arm in arms if arm not in plain and plain]:
        controls = [p for p in plain if budget is None or spent[p] >= spent[arm]]
        equal = [compared(setting, rows, arm, controls, [setting]) for setting in every]
        best = []
        for nfe in sorted({nfe for _, nfe in every}):
            at = [setting for setting in every if setting[1] == nfe]
            best.append(compared(("any", nfe), rows, arm, controls, at))
        short = all(spent[p] < spent[arm] for p in plain)
        note = f" (no plain arm spent as many {'seconds' if budget == 'seconds' else 'network calls'})" if short else ""
        found.append(in_words(arm, f"At equal scheduler{note}", equal))
        found.append(in_words(arm, f"Against the best scheduler for each number of calls{note}", best))
    return found


def check_seeds(rows: list[dict[str, Any]]) -> None:
    """Raises ValueError where two runs are the same seed of the same arm: one would stand for the other."""
    seen: dict[tuple[str, Any], str] = {}
    for r in rows:
        key, folder = (r["arm"], r["seed"]), r.get("folder", r["name"])
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {folder} are both seed {r['seed']} of the arm `{r['arm']}`: give one of them, or "
                "rename a folder (NAME-s0, NAME-s1 … are seeds of NAME)"
            )
        seen[key] = folder


def cost(run: dict[str, Any], budget: Literal["calls", "seconds"]) -> float:
    """What the training of a run spent."""
    if budget == "calls":
        return run["network_calls"]
    return (run["seconds_per_step"] or 0.0) * run["step"]


def compared(
    name: Setting, rows: list[dict[str, Any]], arm: str, controls: list[str], at: list[Setting]
) -> dict[str, Any] | None:
    """An arm against the best of its controls, each with its best of the given settings."""
    method, control = best_of(rows, [arm], at), best_of(rows, controls, at)
    if method is None or control is None:
        return None
    result = judge(method, control)
    numbers = {"scheduler": name[0], "nfe": name[1], "frechet": method.mean, "control": control.mean}
    return numbers | {key: result.get(key) for key in ("difference", "interval", "verdict", "note")}


def best_of(rows: list[dict[str, Any]], arms: list[str], at: list[Setting]) -> Measured | None:
    """The lowest mean distance among arms and settings."""
    candidates = [m for arm in arms for setting in at if (m := measured(rows, arm, setting))]
    return min(candidates, key=lambda m: m.mean, default=None)


def in_words(arm: str, heading: str, comparisons: list[dict[str, Any] | None]) -> dict[str, Any]:
    """One verdict: gain where something was gained and nothing lost, worse in the reverse case, else no gain."""
    known = [c for c in comparisons if c is not None]
    places: dict[str, list[str]] = {"gain": [], "worse": [], "no gain": []}
    for c in known:
        where = (
            f"{c['nfe']} call{'s' if c['nfe'] > 1 else ''}"
            if c["scheduler"] == "any"
            else f"{c['scheduler']} {c['nfe']}"
        )
        if c["verdict"] != "no gain":
            where += f" ({c['frechet']:.2f} against {c['control']:.2f})"
        places[c["verdict"]].append(where)
    words = {"gain": "helps at", "worse": "worse at", "no gain": "no gain at"}
    parts = [f"{words[kind]} {', '.join(at)}" for kind, at in places.items() if at]
    gains, losses = bool(places["gain"]), bool(places["worse"])
    verdict = "gain" if gains and not losses else "worse" if losses and not gains else "no gain"
    if gains and losses:
        parts.append("so it depends on the number of calls")
    sentence = f"{heading}: {'; '.join(parts) or 'nothing to compare'}."
    return {"name": arm, "sentence": sentence, "verdict": verdict, "comparisons": known}
