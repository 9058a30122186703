"""Samplers: from a trained generator to samples."""

from sparring.samplers.guidance import network_output
from sparring.samplers.loop import generate, rows_at_once
from sparring.samplers.sampler import Sampler, Samples, save_animation, save_images

__all__ = [
    "Sampler",
    "Samples",
    "generate",
    "network_output",
    "rows_at_once",
    "save_animation",
    "save_images",
]
