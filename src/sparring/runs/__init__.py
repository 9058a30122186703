"""The run folder as a format: configuration, checkpoints, results and pictures."""

from sparring.runs.folder import RunFolder
from sparring.runs.results import is_run, row

__all__ = [
    "RunFolder",
    "is_run",
    "row",
]
