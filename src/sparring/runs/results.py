"""What was measured of a run: results.json, and the costs of its training."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.runs.checkpoint import STATE, steps_in
from sparring.runs.folder import RunFolder

RESULTS = "results.json"


KEY = ("nfe", "scheduler", "n", "n_reference", "features", "seed", "split", "reference", "train", "step")
"""What tells two results of a run apart."""


def is_run(path: str | Path) -> bool:
    return (Path(path) / "config.yaml").is_file()


def keep_result(run: Path, result: dict[str, Any]) -> None:
    """Adds a result to the run's results.json, with the run's step, in place of one with the same `KEY`."""
    path = run / RESULTS
    present = {"step": step_of(run)}
    result = present | result
    kept = [old for old in read_results(run) if any((present | old).get(k) != result.get(k) for k in KEY)]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps([*kept, result], indent=1))
    draft.replace(path)


def read_results(run: Path) -> list[dict[str, Any]]:
    """All that was measured of a run, at whatever step it was.

    Raises:
        ValueError: results.json is not a list of results.
    """
    path = run / RESULTS
    if not path.is_file():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        results = None
    if not isinstance(results, list) or not all(map(is_result, results)):
        raise ValueError(
            f"{path} is not a list of results, each with `scheduler`, `nfe` and `frechet`: repair it, or remove it and "
            "evaluate again"
        )
    return results


def is_result(value: Any) -> bool:
    kinds = {"scheduler": str, "nfe": int, "frechet": int | float}
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def present_results(run: Path) -> list[dict[str, Any]]:
    """What was measured of a run at its present step; a result without a step counts as of the present one."""
    present = step_of(run)
    return [result for result in read_results(run) if present is None or result.get("step") in (None, present)]


def step_of(run: Path) -> int | None:
    """Step of the newest checkpoint, None where there is none."""
    return next(reversed(steps_in(RunFolder(run).checkpoints)), None)


def row(run: Path) -> dict[str, Any]:
    """What `sparring compare --json` prints of one run; its results are those of its present step.

    Raises:
        ValueError: not a run, or its configuration, newest checkpoint or results are damaged.
    """
    if not is_run(run):
        raise ValueError(f"{run} is not a run of sparring: it has no config.yaml")
    folder = RunFolder(run)
    config = folder.read_config()
    steps = steps_in(folder.checkpoints)
    state = read_costs(folder.checkpoints / f"{steps[-1]:06d}") if steps else {}
    done = round(state.get("step", 0))
    results = present_results(run)
    speeds = [result["images_per_second"] for result in results if result.get("images_per_second")]
    return {
        "name": run.name,
        "folder": str(run),
        "arm": re.sub(r"[-_]s(eed)?\d+$", "", run.name),
        "method": str(config.get("method", {}).get("class_path", "?")).rsplit(".", 1)[-1],
        "seed": config.get("trainer", {}).get("seed"),
        "step": done,
        "network_calls": round(state.get("network_calls", 0)),
        "seconds_per_step": state["seconds"] / done if done else None,
        "images_per_second": max(speeds, default=None),
        "results": results,
    }


def read_costs(checkpoint: Path) -> dict[str, float]:
    """Step, network calls and seconds of a checkpoint."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        costs = {key: float(state[key]) for key in ("step", "network_calls", "seconds")}
        if not all(map(math.isfinite, costs.values())):
            raise ValueError
        return costs
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"checkpoint {checkpoint} is damaged ({STATE} needs `step`, `network_calls` and `seconds`, all of them "
            "numbers): remove the folder, and the checkpoint before it counts"
        ) from None


WAY = ("features", "n", "n_reference", "seed", "split", "reference")


LEARNED = ("classifier", "self-supervised")  # features that are trained on the images that the run was trained on


def measured_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results can be compared: same features, images, number and seed of the samples.

    What one of them does not say (an older results.json) is no difference.
    """
    learned = str(one.get("features")).startswith(LEARNED)
    keys = (*WAY, "train") if learned else WAY
    return all(one[key] == other[key] for key in keys if key in one and key in other)


def common_way(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of some results one that was measured as most of them were, of equals the latest; {} where there is none."""
    if not results:
        return {}
    keys = (*WAY, "train")
    ways = {str([result.get(key) for key in keys]): result for result in results}
    sharing = {name: sum(measured_alike(way, other) for other in results) for name, way in ways.items()}
    most = ways[max(reversed(ways), key=lambda name: sharing[name])]
    same = [name for name in reversed(ways) if measured_alike(ways[name], most)]  # of these the one that says most
    return ways[max(same, key=lambda name: (sum(key in ways[name] for key in keys), sharing[name]))]
