"""Results on the terminal: one table of a comparison, a few lines of one evaluation."""

import math
import sys
from statistics import stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from sparring.evaluation.comparison import Setting, alike, measured, results_at, settings

WIDEST = 160


def console() -> Console:
    """The terminal as it is; wide enough for a table when the output goes elsewhere."""
    return Console() if sys.stdout.isatty() else Console(width=WIDEST)


def print_result(name: str, result: dict[str, Any]) -> None:
    """The numbers of one evaluation and what they depend on."""
    floor = result.get("floor") or {}
    table = Table(title=name, title_justify="left", caption_justify="left")
    for heading in ("metric", "value", "floor (real)", "better"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    rows = [("frechet", "lower"), ("kernel", "lower"), ("precision", "higher"), ("recall", "higher")]
    for key, better in [*rows, ("density", "higher"), ("coverage", "higher")]:
        if result.get(key) is not None:
            value, low = result[key], floor.get(key)
            table.add_row(key, f"{value:.4g}", "" if low is None else f"{low:.4g}", better)
    how = f"{result['scheduler']}, {result['nfe']} network calls, " if result.get("nfe") else ""
    table.caption = (
        f"{how}n = {result['n']} against {result['n_reference']} real images, features: {result['features']} "
        f"(a distance in these features is not an FID); floor: {floor.get('n', '?')} real images"
    )
    console().print(table)


def print_comparison(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> None:
    """Frechet distance, precision and recall of every arm, scheduler and number of calls; cost; verdicts.

    One table where the terminal is wide enough, else one for the distance and one for the shares.
    """
    out = console()
    every, rows = sum(len(r["results"]) for r in rows), alike(rows)
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    some = next((result for r in rows for result in r["results"]), None)
    if out.width >= 30 + 20 * len(arms):
        kinds = [("Frechet distance (precision/recall)", distance_and_shares)]
    else:
        kinds = [("Frechet distance", distance), ("Precision/recall", shares)]
    for title, write in kinds:
        table = Table(title=title, title_justify="left", caption_justify="left")
        table.add_column("scheduler, calls")
        for arm in arms:
            table.add_column(arm, justify="right")
        for setting in settings(rows):
            table.add_row(f"{setting[0]} {setting[1]}", *[write(rows, arm, setting) for arm in arms])
        if write is not shares:
            table.add_section()
            table.add_row("ms per training step", *[mean_of(rows, arm, "seconds_per_step", 1000) for arm in arms])
            table.add_row("training calls", *[mean_of(rows, arm, "network_calls") for arm in arms])
            table.add_row("images/s, fastest", *[mean_of(rows, arm, "images_per_second") for arm in arms])
        out.print(table)
    if some:
        floor = some.get("floor") or {}
        near, precise, covered = (floor.get(key, math.nan) for key in ("frechet", "precision", "recall"))
        out.print(
            f"Lower distance is better; it is no FID. Features: {some['features']}; n = {some['n']} against "
            f"{some.get('n_reference')} held-out images; floor (real against real): {near:.2f} "
            f"({precise:.2f}/{covered:.2f}).",
            highlight=False,
        )
    if left_out := every - sum(len(r["results"]) for r in rows):
        out.print(f"{left_out} results were measured in another way and are left out.", highlight=False)
    colours = {"gain": "green", "worse": "red", "no gain": "yellow"}
    for verdict in verdicts:
        colour = colours[verdict["verdict"]]
        out.print(
            f"[bold]{verdict['name']}[/] [{colour}]{verdict['verdict']}[/]  {verdict['sentence']}", highlight=False
        )


def distance_and_shares(rows: list[dict[str, Any]], arm: str, setting: Setting) -> str:
    far = distance(rows, arm, setting)
    return f"{far} ({shares(rows, arm, setting)})" if far else ""


def distance(rows: list[dict[str, Any]], arm: str, setting: Setting) -> str:
    """Mean and standard deviation over seeds of one arm at one setting."""
    found = measured(rows, arm, setting)
    if found is None:
        return ""
    values = list(found.values.values())
    return f"{found.mean:.2f}" + (f"±{stdev(values):.2f}" if len(values) > 1 else "")


def shares(rows: list[dict[str, Any]], arm: str, setting: Setting) -> str:
    """Precision and recall, means over seeds."""
    mine = list(results_at(rows, arm, setting).values())
    if not mine:
        return ""
    return "/".join(f"{sum(result[key] for result in mine) / len(mine):.2f}" for key in ("precision", "recall"))


def mean_of(rows: list[dict[str, Any]], arm: str, key: str, scale: float = 1) -> str:
    values = [r[key] for r in rows if r["arm"] == arm and r.get(key) is not None]
    return f"{scale * sum(values) / len(values):.0f}" if values else ""
