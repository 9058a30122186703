"""The page's figures: quality against network calls, quality against cost, and the curves of training."""

from collections.abc import Sequence
from typing import Any

from sparring.evaluation.comparison import Arm, Comparison, Cost, Estimate
from sparring.report.figures import Line, plot, thin, wants_log
from sparring.report.folder import Run
from sparring.report.table import floor

GROUPS = {"generator": "Generator", "discriminator": "Discriminator", "statistics": "Logits and statistics"}


def quality_panels(comparison: Comparison) -> list[dict[str, str]]:
    """Frechet distance against NFE: one panel for each scheduler, all with the same height."""
    everything, arms = comparison.settings(), comparison.arms
    known = {(arm.number, s): estimate for arm in arms for s in everything if (estimate := arm.distance(s))}
    floors = {setting: floor(arms, setting) for setting in everything}
    y_log, y_limits = _axis(list(known.values()), list(floors.values()))
    panels: list[dict[str, str]] = []
    for scheduler in dict.fromkeys(scheduler for scheduler, _ in everything):
        here = [setting for setting in everything if setting.scheduler == scheduler]
        lines = []
        for arm in arms:
            points = [(s.nfe, known[arm.number, s]) for s in here if (arm.number, s) in known]
            if points:
                lines.append(_line(arm, points))
        if not lines:
            continue
        svg = plot(
            lines,
            name=f"quality-{len(panels)}",
            x_label="NFE (network calls per image)",
            y_label="Frechet distance",
            x_log=True,
            y_log=y_log,
            x_ticks=[setting.nfe for setting in here],
            y_limits=y_limits,
            floor=floors[here[0]],
            markers=True,
        )
        panels.append({"title": scheduler, "svg": svg})
    return panels


def _line(arm: Arm, points: Sequence[tuple[float, Estimate]]) -> Line:
    estimates = [estimate for _, estimate in points]
    return Line(
        arm.number,
        x=[x for x, _ in points],
        y=[estimate.mean for estimate in estimates],
        low=[estimate.low for estimate in estimates],
        high=[estimate.high for estimate in estimates],
    )


def _axis(estimates: Sequence[Estimate], floors: Sequence[float | None]) -> tuple[bool, tuple[float, float] | None]:
    """Whether the axis of the distance is logarithmic, and its ends."""
    if not estimates:
        return False, None
    values = [estimate.mean for estimate in estimates] + [value for value in floors if value is not None]
    low, high = min(values), max([*values, *(estimate.high for estimate in estimates)])
    if wants_log(values):
        return True, (low / 1.25, high * 1.25)
    return False, (min(0.0, low), high * 1.08 if high > 0 else 1.0)


def cost_panels(comparison: Comparison) -> list[dict[str, Any]]:
    """Frechet distance against what the training cost, for every setting with at least two arms."""
    axes: list[tuple[str, Cost]] = [
        ("network calls in training", "network_calls"),
        ("seconds a training step", "seconds_per_step"),
    ]
    arms = comparison.arms
    cases: list[dict[str, Any]] = []
    for setting in comparison.settings():
        lowest = floor(arms, setting)
        panels: list[dict[str, str]] = []
        count = 0
        for label, cost in axes:
            points = [
                (arm, x.mean, estimate)
                for arm in arms
                if (estimate := arm.distance(setting)) and (x := arm.cost(cost)) is not None
            ]
            if len(points) < 2:
                continue
            count = len(points)
            y_log, y_limits = _axis([estimate for _, _, estimate in points], [lowest])
            svg = plot(
                [_line(arm, [(x, estimate)]) for arm, x, estimate in points],
                name=f"cost-{len(cases)}-{len(panels)}",
                x_label=label,
                y_label="Frechet distance",
                y_log=y_log,
                y_limits=y_limits,
                x_zero=True,
                floor=lowest,
                markers=True,
            )
            panels.append({"title": _words(label), "svg": svg})
        if panels:
            cases.append({"setting": setting, "panels": panels, "arms": count})
    return cases


def curve_panels(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Groups of panels, one a quantity, grouped by the key before its slash; and the keys that were zero throughout.

    Args:
        runs: one of each arm, in their order.
    """
    panels: dict[str, dict[str, list[tuple[Line, str]]]] = {}
    drawn = {key for run in runs for key, points in run.curves.items() if any(value for _, value in points)}
    for arm, run in enumerate(runs):
        for key, points in run.curves.items():
            if key in drawn:
                group, _, rest = key.rpartition("/")
                stem, dashed = _fake(rest)
                line = Line(arm, *thin(points), dashed=dashed)
                panels.setdefault(group, {}).setdefault(stem, []).append((line, rest))
    order = [*GROUPS, *sorted(group for group in panels if group and group not in GROUPS), ""]
    groups: list[dict[str, Any]] = []
    for group in filter(panels.__contains__, order):
        made = [_curve(f"curve-{len(groups)}-{i}", *item) for i, item in enumerate(panels[group].items())]
        groups.append({"title": GROUPS.get(group) or _words(group) or "Everything else", "panels": made})
    return groups, sorted({key for run in runs for key in run.curves} - drawn)


def _curve(name: str, stem: str, members: Sequence[tuple[Line, str]]) -> dict[str, str]:
    lines = [line for line, _ in members]
    first, last = [min(line.x) for line in lines], [max(line.x) for line in lines]
    svg = plot(
        lines,
        name=name,
        x_label="training step",
        x_log=min(first) > 0 and max(last) > 3 * min(last),  # else the longest run squeezes the others
        y_log=wants_log([y for line in lines for y in line.y]),
    )
    if len({line.dashed for line in lines}) < 2:
        return {"title": _words(members[0][1]), "svg": svg}
    return {"title": f"{_words(stem)}: real solid, fake dashed" if stem else "Real solid, fake dashed", "svg": svg}


def _fake(key: str) -> tuple[str, bool]:
    """The quantity without its last word real or fake, and whether that word was fake."""
    stem, _, last = key.rpartition("_")
    return (stem, last == "fake") if last in ("real", "fake") else (key, False)


def _words(key: str) -> str:
    words = key.replace("_", " ").replace("/", ", ").strip()
    return words[:1].upper() + words[1:]
