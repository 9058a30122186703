"""List the recipes that ship with the package."""

import argparse

from sparring.recipes import recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    shipped = recipe.shipped()
    width = max(map(len, shipped))
    for name, line in shipped.items():
        print(f"{name:{width}}  {line}")
    return 0
