"""The trainer and what it keeps: averages, optimisers, checkpoints, the run folder."""

from sparring.runs import RunFolder
from sparring.training.ema import EMA
from sparring.training.interrupt import Interrupted
from sparring.training.optimizer import AdamW
from sparring.training.trainer import Trainer

__all__ = [
    "EMA",
    "AdamW",
    "Interrupted",
    "RunFolder",
    "Trainer",
]
