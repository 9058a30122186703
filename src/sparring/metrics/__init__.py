"""Measuring generated images: feature networks and the numbers computed on them."""

from sparring.metrics.evaluate import Reference, paired_verdict
from sparring.metrics.features import Features, Module, Pixels, extract

__all__ = ["Features", "Module", "Pixels", "Reference", "extract", "paired_verdict"]
