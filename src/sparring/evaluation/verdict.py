"""Method against control over seeds: the mean difference, its interval and the verdict."""

from collections.abc import Sequence
from typing import Any

import torch


def paired_verdict(
    method_values: Sequence[float],
    control_values: Sequence[float],
    *,
    lower_is_better: bool = True,
    spread: float | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Method against control, seed by seed: the mean difference, its interval and the verdict.

    From three seeds on, the interval is Student's over the paired differences. One or two seeds say nothing about the
    spread over seeds: then the half-width is `spread`, and the note says so. Where zero lies inside the interval, or
    there is none, the verdict is "no gain".

    Args:
        method_values: One number per seed.
        control_values: The same metric of the control, with the same seeds in the same order.
        lower_is_better: True for distances, False for shares such as recall.
        spread: For fewer than three seeds: half-width of the interval of one difference, e.g. the root of the summed
            squares of the
            half-widths of two bootstrap intervals.
        confidence: Of the interval.

    Returns:
        difference (method - control), interval [low, high] or None, verdict "gain", "no gain" or "worse", seeds, note.
    """
    if len(method_values) != len(control_values) or not method_values:
        raise ValueError(
            f"{len(method_values)} values of the method and {len(control_values)} of the control: "
            "expected one of each per seed, in the same order"
        )
    differences = torch.tensor(method_values, dtype=torch.float64) - torch.tensor(control_values, dtype=torch.float64)
    if not bool(torch.isfinite(differences).all()):
        raise ValueError("a value of the method or the control is not finite: a failed seed has no difference")
    n, mean = len(differences), float(differences.mean())
    note = f"{n} seeds"
    if n >= 3:
        from scipy.stats import t as student

        half = float(student.ppf((1 + confidence) / 2, n - 1) * differences.std() / n**0.5)
    else:
        note = "one seed" if n == 1 else "two seeds"
        note += ": no spread known" if spread is None else ": spread of the samples only"
        half = float("inf") if spread is None else spread
    sign = 1 if lower_is_better else -1
    verdict = "gain" if sign * mean + half < 0 else "worse" if sign * mean - half > 0 else "no gain"
    interval = None if half == float("inf") else [mean - half, mean + half]
    return {"difference": mean, "interval": interval, "verdict": verdict, "seeds": n, "note": note}
