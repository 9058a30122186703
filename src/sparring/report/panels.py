"""The page's figures: quality against network calls, quality against cost, and the curves of training."""

from collections.abc import Callable, Sequence
from typing import Any

from .figures import Line, plot, thin, wants_log
from .folder import Setting, finite
from .table import Arm, settings, summary

GROUPS = {"generator": "Generator", "discriminator": "Discriminator", "statistics": "Logits and statistics"}


def quality_panels(arms: Sequence[Arm]) -> list[dict[str, str]]:
    """Frechet distance against network calls: one panel for each scheduler, all with the same height."""
    everything = settings(arms)
    known = [
        v
        for s in everything
        for arm in arms
        if s in arm.results and (v := summary(arm.values(s, "frechet"))[0]) is not None
    ]
    floors = {s: _floor(arms, s) for s in everything}
    heights = known + [floor for floor in floors.values() if floor is not None]
    y_log = wants_log(heights)
    panels: list[dict[str, str]] = []
    for scheduler in dict.fromkeys(scheduler for scheduler, _ in everything):
        calls = [nfe for name, nfe in everything if name == scheduler]
        lines = []
        for arm in arms:
            line = Line(arm.number, [], [], [])
            for nfe in calls:
                mean, spread = summary(arm.values((scheduler, nfe), "frechet"))
                if mean is not None:
                    line.x.append(nfe)
                    line.y.append(mean)
                    line.spread.append(spread or 0.0)
            if line.x:
                lines.append(line)
        if not lines:
            continue
        svg = plot(
            lines,
            name=f"quality-{len(panels)}",
            x_label="network calls",
            y_label="Frechet distance",
            x_log=True,
            y_log=y_log,
            x_ticks=calls,
            y_limits=_limits(heights, y_log),
            floor=floors[scheduler, calls[0]],
            markers=True,
        )
        panels.append({"title": scheduler, "svg": svg})
    return panels


def _floor(arms: Sequence[Arm], setting: Setting) -> float | None:
    values = [
        v for arm in arms if setting in arm.results for v in arm.values(setting, "floor") if finite(v) is not None
    ]
    return sum(values) / len(values) if values else None


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        margin = 1.25
        return low / margin, high * margin
    return min(0.0, low), high * 1.08 if high > 0 else 1.0


def cost_panels(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Frechet distance against what the training cost, for every (scheduler, network calls) with at least two arms."""
    axes: list[tuple[str, Callable[[Arm], float | None]]] = [
        ("network calls in training", lambda arm: arm.cost("network_calls")),
        ("seconds a training step", lambda arm: arm.cost("seconds_per_step")),
    ]
    cases: list[dict[str, Any]] = []
    for setting in settings(arms):
        panels: list[dict[str, str]] = []
        for label, cost in axes:
            lines = []
            for arm in arms:
                mean, spread = summary(arm.values(setting, "frechet")) if setting in arm.results else (None, None)
                if mean is not None and (x := cost(arm)) is not None:
                    lines.append(Line(arm.number, [x], [mean], [spread or 0.0]))
            if len(lines) < 2:
                continue
            heights = [line.y[0] for line in lines]
            floor = _floor(arms, setting)
            heights += [floor] if floor is not None else []
            y_log = wants_log(heights)
            svg = plot(
                lines,
                name=f"cost-{len(cases)}-{len(panels)}",
                x_label=label,
                y_label="Frechet distance",
                y_log=y_log,
                y_limits=_limits(heights, y_log),
                floor=floor,
                markers=True,
            )
            panels.append({"title": label, "svg": svg})
        if panels:
            cases.append({"setting": setting, "panels": panels, "arms": len(panels[0])})
    return cases


def curve_panels(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Panels of training curves, one a quantity (real and fake together), grouped by the key before its slash."""
    panels: dict[str, dict[str, list[tuple[Line, str]]]] = {}
    for arm in arms:
        for key, points in arm.runs[0].curves.items():
            group, _, rest = key.rpartition("/")
            stem, dashed = _fake(rest)
            x, y = thin(points)
            panels.setdefault(group, {}).setdefault(stem, []).append((Line(arm.number, x, y, dashed=dashed), rest))
    order = [*GROUPS, *sorted(group for group in panels if group and group not in GROUPS), ""]
    groups: list[dict[str, Any]] = []
    for group in filter(panels.__contains__, order):
        drawn: list[dict[str, str]] = []
        for stem, members in panels[group].items():
            lines = [line for line, _ in members]
            svg = plot(
                lines,
                name=f"curve-{len(groups)}-{len(drawn)}",
                x_label="training step",
                y_log=wants_log([y for line in lines for y in line.y]),
            )
            both = any(line.dashed for line in lines) and not all(line.dashed for line in lines)
            caption = f"{_words(stem)}: real solid, fake dashed" if both else _words(stem if both else members[0][1])
            drawn.append({"title": caption, "svg": svg})
        groups.append({"title": GROUPS.get(group) or _words(group) or "Other", "panels": drawn})
    return groups


def _fake(key: str) -> tuple[str, bool]:
    """The quantity without its last word real or fake, and whether that word was fake."""
    stem, _, last = key.rpartition("_")
    return (stem, last == "fake") if stem and last in ("real", "fake") else (key, False)


def _words(key: str) -> str:
    return key.replace("_", " ").replace("/", ", ").strip().capitalize()
