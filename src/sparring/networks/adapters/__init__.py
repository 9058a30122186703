"""Adapters: which of a network's weights are trained."""

from sparring.networks.adapters.difffit import DiffFit
from sparring.networks.adapters.freeze_convolutions import FreezeConvolutions
from sparring.networks.adapters.lora import LoRA
from sparring.networks.adapters.tuning import Parts, Tuning

__all__ = [
    "DiffFit",
    "FreezeConvolutions",
    "LoRA",
    "Parts",
    "Tuning",
]
