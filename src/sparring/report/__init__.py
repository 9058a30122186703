"""The page of a run and of a comparison: reads run folders, writes one self-contained HTML file."""

from sparring.report.page import write_comparison, write_run_report

__all__ = [
    "write_comparison",
    "write_run_report",
]
