"""List methods and settings, the two halves of a recipe (sparring fit METHOD --on SETTING), and studies."""

import argparse

from sparring.recipes.compose import shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    kinds = {kind: shipped(kind) for kind in ("methods", "settings", "studies")}
    width = max(len(name) for names in kinds.values() for name in names)
    for kind, names in kinds.items():
        print(f"{kind}:")
        for name, line in names.items():
            print(f"  {name:{width}}  {line}")
    return 0
