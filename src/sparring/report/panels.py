"""The page's figures: quality against network calls, quality against cost, and the curves of training."""

from collections.abc import Sequence
from typing import Any

from sparring.evaluation.comparison import Arm, Comparison, Cost, Estimate, Metric
from sparring.report.figures import Line, plot, thin, wants_log
from sparring.report.folder import Run
from sparring.report.table import floor
from sparring.runs.results import Setting

GROUPS = {
    "generator": "Generator",
    "discriminator": "Discriminator",
    "statistics": "Logits and statistics",
    "measures": "Measures",
}


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


SWEPT: tuple[tuple[Metric, str], ...] = (
    ("frechet", "Frechet distance"),
    ("precision", "Precision"),
    ("recall", "Recall"),
)


def sweep_panels(arm: Arm) -> list[dict[str, Any]]:
    """What a sweep over samplers shows of one arm: distance, precision and recall, each group with its legend.

    One group against guidance for every scheduler that was guided with several weights (a line for each NFE), and one
    against NFE (a line for each scheduler, guided or not).
    """
    weights = {one: result.guidance for one in arm.settings() for result in arm.results(one).values()}
    names = {one: one.scheduler.partition("-w")[0] for one in weights}
    by_weight: dict[str, dict[str, list[tuple[float, Setting]]]] = {}
    by_calls: dict[str, list[tuple[float, Setting]]] = {}
    for one in sorted(weights):
        by_calls.setdefault(one.scheduler, []).append((one.nfe, one))
        if (weight := weights[one]) is not None:
            by_weight.setdefault(names[one], {}).setdefault(f"NFE {one.nfe}", []).append((weight, one))
    groups = [
        _swept(arm, f"Against the weight of guidance, {name}", "weight of guidance", lines, f"guidance-{number}")
        for number, (name, lines) in enumerate(by_weight.items())
        if max(len(points) for points in lines.values()) > 1
    ]
    if groups or len(by_calls) > 1:
        groups.append(_swept(arm, "Against NFE", "NFE (network calls per image)", by_calls, "nfe"))
    return [group for group in groups if group["panels"]]


def _swept(
    arm: Arm, title: str, x_label: str, lines: dict[str, list[tuple[float, Setting]]], name: str
) -> dict[str, Any]:
    chosen = {label: sorted(points) for label, points in lines.items() if len(points) > 1}
    panels = []
    for metric, words in SWEPT:
        known = [
            [(x, estimate.mean) for x, setting in points if (estimate := arm.estimate(metric, setting)) is not None]
            for points in chosen.values()
        ]
        drawn = [
            Line(number, [x for x, _ in points], [y for _, y in points], series=True)
            for number, points in enumerate(known)
            if points
        ]
        if not drawn:
            continue
        ticks = sorted({x for line in drawn for x in line.x})
        svg = plot(
            drawn,
            name=f"sweep-{name}-{metric}",
            x_label=x_label,
            y_label=words,
            x_log=min(ticks) > 0 and max(ticks) > 4 * min(ticks),
            y_log=metric == "frechet" and wants_log([y for line in drawn for y in line.y]),
            x_ticks=ticks,
            markers=True,
        )
        panels.append({"title": words, "svg": svg})
    return {"title": title, "legend": list(enumerate(chosen)), "panels": panels}


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
