"""Draws line figures with matplotlib as inline SVG; colours are CSS variables, so one figure serves light and dark."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLOURS = 6  # --s0 .. --s5 in style.css.j2
MARKERS = "osD^vPXp"  # the shapes .m0 .. .m7 of style.css.j2
WIDTH, HEIGHT = 5.2, 3.3  # inches; 72 SVG units each
MAX_POINTS = 120
LOG_RATIO = 30.0  # a positive axis that spans more than this is drawn logarithmic

# Matplotlib knows no CSS variables: draw in colours nobody uses, replace them in the text. Arm 7 becomes var(--a7).
_INK, _GRID, _FLOOR, _ARM, _SERIES = "#010203", "#010204", "#010205", "#02{:04x}", "#03{:04x}"
_VARIABLES = {_INK: "--ink-soft", _GRID: "--line", _FLOOR: "--floor"}


@dataclass
class Line:
    """One line (with one x: one point). The arm's number gives colour and marker; `low` and `high` draw error bars.

    A line of a `series` is of no arm: its number gives colour and marker, and the page cannot hide it.
    """

    arm: int
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    dashed: bool = False
    series: bool = False


def thin(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Means over at most `MAX_POINTS` runs of neighbouring points, as x and y."""
    chunks = np.array_split(np.asarray(points, dtype=float), min(len(points), MAX_POINTS))
    means = [chunk.mean(0) for chunk in chunks]
    return [float(m[0]) for m in means], [float(m[1]) for m in means]


def wants_log(values: Sequence[float]) -> bool:
    """Whether values are positive and span so much that a linear axis would hide the small ones."""
    return len(values) > 0 and min(values) > 0 and max(values) > LOG_RATIO * min(values)


def plot(
    lines: Sequence[Line],
    *,
    name: str,
    x_label: str,
    y_label: str = "",
    x_log: bool = False,
    y_log: bool = False,
    x_ticks: Sequence[float] | None = None,
    y_limits: tuple[float, float] | None = None,
    x_zero: bool = False,
    floor: float | None = None,
    markers: bool = False,
) -> str:
    """One panel as an `<svg>` element without title, for inlining in HTML.

    Args:
        lines: what to draw; groups of the SVG carry `data-arm`, so that the page can hide an arm.
        name: unique in the page; prefixes all ids. Letters, digits and hyphens.
        x_zero: start the horizontal axis at zero.
        floor: height of a dashed horizontal line.
        markers: at every point; else at the last one only.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.125, 0.165, 0.855, 0.8))
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for line in lines:
            _draw(axes, line, markers)
        if floor is not None:
            axes.axhline(floor, color=_FLOOR, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
        if x_zero:
            axes.set_xlim(left=0)
        _style(axes, x_label, y_label, x_log, y_log, x_ticks, y_limits)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name)


def _draw(axes: Axes, line: Line, markers: bool) -> None:
    shade = (_SERIES if line.series else _ARM).format(line.arm)
    style: dict = {"linestyle": (0, (3, 2))} if line.dashed else {}
    style |= {"marker": MARKERS[line.arm % len(MARKERS)], "markersize": 6.5, "markeredgewidth": 0}
    if not markers:
        style |= {"markevery": [-1], "linestyle": style.get("linestyle", "-")}
    (drawn,) = axes.plot(line.x, line.y, color=shade, linewidth=1.8, solid_capstyle="round", **style)
    drawn.set_gid(f"arm-{line.arm}" if not line.series else None)
    if line.low != line.high:
        y = np.asarray(line.y)
        ranges = np.maximum([y - line.low, np.asarray(line.high) - y], 0)
        bars = axes.errorbar(line.x, y, ranges, fmt="none", ecolor=shade, elinewidth=1.2, capsize=3)
        for part in (*bars[1], *bars[2]):
            part.set_gid(f"arm-{line.arm}")


def _style(
    axes: Axes,
    x_label: str,
    y_label: str,
    x_log: bool,
    y_log: bool,
    x_ticks: Sequence[float] | None,
    y_limits: tuple[float, float] | None,
) -> None:
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    plain = FuncFormatter(lambda value, _: _short(value))
    if x_log:
        axes.set_xscale("log")
    if y_log:
        axes.set_yscale("log")
        low, high = y_limits or axes.get_ylim()
        subs = (1, 2, 5) if high < 100 * low else (1, 3) if high < 1e4 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    if x_ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(x_ticks)))
    elif not x_log:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_locator(NullLocator())
    if y_limits is not None:
        axes.set_ylim(y_limits)
    axes.tick_params(color=_GRID, labelcolor=_INK, length=3)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GRID)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<svg [^>]*>",
        f'<svg viewBox="0 0 {WIDTH * 72:g} {HEIGHT * 72:g}" aria-hidden="true" focusable="false">',
        svg,
        count=1,
    )
    svg = re.sub(r'\bid="arm-(\d+)"', r'data-arm="\1"', svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'\bxlink:href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    for sentinel, variable in _VARIABLES.items():
        svg = svg.replace(sentinel, f"var({variable})")
    svg = re.sub(r"#02([0-9a-f]{4})\b", lambda match: f"var(--a{int(match[1], 16)})", svg)
    svg = re.sub(r"#03([0-9a-f]{4})\b", lambda match: f"var(--s{int(match[1], 16) % COLOURS})", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)
