"""Objectives and penalties: pure formulas on logits and features."""

from sparring.objectives.adversarial import Hinge, NonSaturating, Objective, Relativistic, discriminator_statistics
from sparring.objectives.penalties import r1_penalty
from sparring.objectives.structure import structure_distance

__all__ = [
    "Hinge",
    "NonSaturating",
    "Objective",
    "Relativistic",
    "discriminator_statistics",
    "r1_penalty",
    "structure_distance",
]
