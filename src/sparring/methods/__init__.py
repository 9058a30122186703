"""One file per method, in a folder per family. `from sparring.methods import NAME` finds the file that defines NAME."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sparring.methods.method import Losses, Method, frozen_copy, moving_copy

__all__ = ["Losses", "Method", "frozen_copy", "moving_copy"]


def __getattr__(name: str) -> Any:
    """Finds the file with `class NAME(` and imports that one."""
    folder = Path(__file__).parent
    for file in sorted(folder.glob("*/*.py")):
        if re.search(rf"^class {re.escape(name)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            return getattr(import_module(f"sparring.methods.{file.parent.name}.{file.stem}"), name)
    raise AttributeError(f"module 'sparring.methods' has no attribute {name!r}")
