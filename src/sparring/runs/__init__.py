"""The run folder as a format: configuration, checkpoints, results and pictures."""

from sparring.runs.folder import RunFolder
from sparring.runs.results import Result, RunSummary, Setting, is_run, summarise

__all__ = [
    "Result",
    "RunFolder",
    "RunSummary",
    "Setting",
    "is_run",
    "summarise",
]
