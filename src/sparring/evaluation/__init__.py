"""Evaluation: runs, pipelines and folders of images against real images, and against each other."""

from sparring.evaluation.comparison import Arm, Comparison, Estimate
from sparring.evaluation.evaluator import Evaluator
from sparring.evaluation.real import RealImages, data_of_run
from sparring.evaluation.verdict import PairedResult, Verdict, paired_verdict, verdicts

__all__ = [
    "Arm",
    "Comparison",
    "Estimate",
    "Evaluator",
    "PairedResult",
    "RealImages",
    "Verdict",
    "data_of_run",
    "paired_verdict",
    "verdicts",
]
