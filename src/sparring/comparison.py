"""Runs side by side: one row for each, and for each arm a verdict against the plain runs, over seeds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.evaluation import is_run, read_results
from sparring.metrics import paired_verdict
from sparring.training import RunFolder
from sparring.training.checkpoint import STATE, steps_in

Setting = tuple[str, int]
"""Scheduler and network calls."""


def row(run: Path) -> dict[str, Any]:
    """What `sparring compare --json` prints of one run."""
    if not is_run(run):
        raise ValueError(f"{run} is not a run of sparring: it has no config.yaml")
    folder = RunFolder(run)
    config = folder.read_config()
    steps = steps_in(folder.checkpoints)
    state = json.loads((folder.checkpoints / f"{steps[-1]:06d}" / STATE).read_text()) if steps else {}
    done = state.get("step", 0)
    results = read_results(run)
    speeds = [result["images_per_second"] for result in results if result.get("images_per_second")]
    return {
        "name": run.name,
        "arm": re.sub(r"[-_]s(eed)?\d+$", "", run.name),
        "method": str(config.get("method", {}).get("class_path", "?")).rsplit(".", 1)[-1],
        "seed": config.get("trainer", {}).get("seed"),
        "step": done,
        "network_calls": round(state.get("network_calls", 0)),
        "seconds_per_step": state["seconds"] / done if done else None,
        "images_per_second": max(speeds, default=None),
        "results": results,
    }


def settings(rows: list[dict[str, Any]]) -> list[Setting]:
    """Every scheduler and number of calls that somebody was measured with, in order."""
    found = {(result["scheduler"], result["nfe"]) for r in rows for result in r["results"] if result.get("nfe")}
    return sorted(found)


@dataclass
class Measured:
    """Frechet distances of one arm at one setting: seed -> value and half the width of its bootstrap interval."""

    values: dict[Any, float]
    widths: dict[Any, float]

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)


def measured(rows: list[dict[str, Any]], arm: str, setting: Setting) -> Measured | None:
    """The arm's distances at a setting, None where there are none."""
    found = Measured({}, {})
    for r in rows:
        for result in r["results"] if r["arm"] == arm else []:
            if (result["scheduler"], result["nfe"]) == setting:
                low, high = result.get("frechet_interval") or (0.0, 0.0)
                found.values[r["seed"]] = result["frechet"]
                found.widths[r["seed"]] = (high - low) / 2
    return found if found.values else None


def judge(method: Measured, control: Measured) -> dict[str, Any]:
    """The paired verdict over the seeds both have; one seed is judged by the spread of its samples."""
    seeds = sorted(set(method.values) & set(control.values), key=str)
    if not seeds:
        return {"verdict": "no gain", "difference": method.mean - control.mean}
    spread = max((method.widths[s] ** 2 + control.widths[s] ** 2) ** 0.5 for s in seeds)
    return paired_verdict([method.values[s] for s in seeds], [control.values[s] for s in seeds], spread=spread)


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """For each arm that is not plain diffusion: does it help at equal scheduler, and against the best scheduler?

    The control is, at each setting, the best of the plain arms. A gain inside the spread is no gain.
    """
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    plain = [arm for arm in arms if all(r["method"] == "Diffusion" for r in rows if r["arm"] == arm)]
    every = settings(rows)
    calls = sorted({nfe for _, nfe in every})
    found = []
    for arm in arms:
        if arm in plain or not plain:
            continue
        equal: list[tuple[Setting, Measured, Measured]] = []
        best: list[tuple[Setting, Measured, Measured]] = []
        for setting in every:
            mine, theirs = measured(rows, arm, setting), best_of(rows, plain, [setting])
            if mine and theirs:
                equal.append((setting, mine, theirs))
        for nfe in calls:
            at = [setting for setting in every if setting[1] == nfe]
            mine, theirs = best_of(rows, [arm], at), best_of(rows, plain, at)
            if mine and theirs:
                best.append((("any", nfe), mine, theirs))
        found.append(sentence(arm, "At equal scheduler", equal))
        found.append(sentence(arm, "Against the best scheduler for each number of calls", best))
    return found


def best_of(rows: list[dict[str, Any]], arms: list[str], at: list[Setting]) -> Measured | None:
    """The lowest mean distance among arms and settings."""
    candidates = [m for arm in arms for setting in at if (m := measured(rows, arm, setting))]
    return min(candidates, key=lambda m: m.mean, default=None)


def sentence(arm: str, heading: str, pairs: list[tuple[Setting, Measured, Measured]]) -> dict[str, str]:
    """One verdict in words."""
    sorted_out: dict[str, list[str]] = {"gain": [], "worse": [], "no gain": []}
    for (scheduler, nfe), mine, theirs in pairs:
        where = f"{nfe} calls" if scheduler == "any" else f"{scheduler} {nfe}"
        numbers = f" ({mine.mean:.2f} against {theirs.mean:.2f})"
        verdict = judge(mine, theirs)["verdict"]
        sorted_out[verdict].append(where + (numbers if verdict != "no gain" else ""))
    words = {"gain": "helps at", "worse": "worse at", "no gain": "no gain at"}
    parts = [f"{words[kind]} {', '.join(places)}" for kind, places in sorted_out.items() if places]
    gains, losses = len(sorted_out["gain"]), len(sorted_out["worse"])
    verdict = "gain" if gains and not losses else "worse" if losses and not gains else "no gain"
    return {"name": arm, "sentence": f"{heading}: {'; '.join(parts) or 'nothing to compare'}.", "verdict": verdict}
