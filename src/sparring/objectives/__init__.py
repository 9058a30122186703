"""Objectives and penalties: pure formulas on logits and features."""

from sparring.objectives.adversarial import (
    Hinge,
    NonSaturating,
    Objective,
    Relativistic,
    Scores,
    Wasserstein,
    discriminator_statistics,
)
from sparring.objectives.penalties import (
    R1,
    R2,
    GradientPenalty,
    Penalty,
    penalties_of,
    r1_penalty,
)
from sparring.objectives.structure import structure_distance

__all__ = [
    "R1",
    "R2",
    "GradientPenalty",
    "Hinge",
    "NonSaturating",
    "Objective",
    "Penalty",
    "Relativistic",
    "Scores",
    "Wasserstein",
    "discriminator_statistics",
    "penalties_of",
    "r1_penalty",
    "structure_distance",
]
