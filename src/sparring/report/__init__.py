"""The page of a run and of a comparison, and its table: read from run folders, written as one file."""

from sparring.report.export import write_table
from sparring.report.page import write_comparison, write_run_report

__all__ = [
    "write_comparison",
    "write_run_report",
    "write_table",
]
