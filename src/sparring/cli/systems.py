"""List the systems of the package: name, family, paper, status and page.

examples:
  sparring systems
  sparring systems tuning
  sparring systems 2504.11423
"""

import argparse

from sparring.recipes.systems import markdown, systems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="only those in whose line it stands")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")


def run(options: argparse.Namespace) -> int:
    found = systems(options.word)
    if not found:
        raise ValueError(f"no system has {options.word!r} in its name, family, paper or status: see `sparring systems`")
    if options.markdown:
        print(markdown(found))
        return 0
    rows = [(one.recipe, one.family, one.status, one.page, f"{one.name}: {one.title} ({one.paper})") for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row[:4], widths, strict=True)), row[4]]))
    return 0
