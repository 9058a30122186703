"""The scripts of docs/figures, to be called by tests."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    """The script `docs/figures/NAME.py` as a module."""
    spec = spec_from_file_location(name, Path(__file__).resolve().parents[1] / "docs" / "figures" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
