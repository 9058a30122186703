"""Evaluation: runs, pipelines and folders of images against real images, and against each other."""

from sparring.evaluation.comparison import verdicts
from sparring.evaluation.evaluator import Evaluator, RealImages
from sparring.evaluation.verdict import paired_verdict

__all__ = [
    "Evaluator",
    "RealImages",
    "paired_verdict",
    "verdicts",
]
