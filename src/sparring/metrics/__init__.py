"""Measuring generated images: the numbers that are computed on features."""

from sparring.metrics.extract import extract
from sparring.metrics.learned import learned_features
from sparring.metrics.reference import Reference
from sparring.metrics.stream import FeatureStream

__all__ = ["FeatureStream", "Reference", "extract", "learned_features"]
