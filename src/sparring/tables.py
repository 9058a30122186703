"""Results on the terminal: one table of a comparison, a few lines of one evaluation."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from sparring.comparison import measured, settings

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


def print_comparison(rows: list[dict[str, Any]], verdicts: list[dict[str, str]]) -> None:
    """Frechet distance with precision/recall, for every arm, scheduler and number of calls; cost; verdicts."""
    out = console()
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    some = next((result for r in rows for result in r["results"]), None)
    table = Table(title="Frechet distance (precision / recall)", title_justify="left", caption_justify="left")
    table.add_column("scheduler, calls")
    for arm in arms:
        table.add_column(arm, justify="right")
    for scheduler, nfe in settings(rows):
        table.add_row(f"{scheduler} {nfe}", *[cell(rows, arm, scheduler, nfe) for arm in arms])
    table.add_section()
    for label, key, scale, form in (
        ("training: ms per step", "seconds_per_step", 1000, ".0f"),
        ("training: network calls", "network_calls", 1, ".0f"),
        ("sampling: images/s, best", "images_per_second", 1, ".0f"),
    ):
        table.add_row(label, *[mean_of(rows, arm, key, scale, form) for arm in arms])
    if some:
        floor = some.get("floor") or {}
        table.caption = (
            f"features: {some['features']}, n = {some['n']} against {some.get('n_reference')} held-out images; "
            f"floor (real against real): {floor.get('frechet', float('nan')):.2f} "
            f"({floor.get('precision', float('nan')):.2f} / {floor.get('recall', float('nan')):.2f}). "
            "Lower distance is better; it is no FID."
        )
    out.print(table)
    colours = {"gain": "green", "worse": "red", "no gain": "yellow"}
    for verdict in verdicts:
        out.print(
            f"[bold]{verdict['name']}[/] [{colours[verdict['verdict']]}]{verdict['verdict']}[/]  {verdict['sentence']}"
        )


def cell(rows: list[dict[str, Any]], arm: str, scheduler: str, nfe: int) -> str:
    """Mean and spread over seeds of one arm at one setting."""
    found = measured(rows, arm, (scheduler, nfe))
    if found is None:
        return ""
    results = [
        result
        for r in rows
        for result in r["results"]
        if r["arm"] == arm and (result["scheduler"], result["nfe"]) == (scheduler, nfe)
    ]
    precision = sum(result["precision"] for result in results) / len(results)
    recall = sum(result["recall"] for result in results) / len(results)
    spread = ""
    if len(found.values) > 1:
        variance = sum((v - found.mean) ** 2 for v in found.values.values()) / (len(found.values) - 1)
        spread = f"±{variance**0.5:.2f}"
    return f"{found.mean:.2f}{spread} ({precision:.2f}/{recall:.2f})"


def mean_of(rows: list[dict[str, Any]], arm: str, key: str, scale: float, form: str) -> str:
    values = [r[key] for r in rows if r["arm"] == arm and r.get(key) is not None]
    return format(scale * sum(values) / len(values), form) if values else ""
