"""One file per method, in a folder per family. `from sparring.methods import NAME` finds the file that defines NAME."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sparring.methods.method import Losses, Method, frozen_copy, moving_copy

__all__ = ["Losses", "Method", "frozen_copy", "moving_copy"]


def __getattr__(name: str) -> Any:
    """Finds the file with `class NAME` and imports that one."""
    if (module := _modules().get(name)) is None:
        raise AttributeError(f"module 'sparring.methods' has no attribute {name!r}")
    return getattr(import_module(module), name)


@cache
def _modules() -> dict[str, str]:
    """The module of every class of the folders."""
    found: dict[str, str] = {}
    for file in sorted(Path(__file__).parent.glob("*/*.py")):
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, f"sparring.methods.{file.parent.name}.{file.stem}")
    return found
