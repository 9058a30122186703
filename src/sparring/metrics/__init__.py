"""Measuring generated images: feature networks and the numbers computed on them."""

from sparring.metrics.evaluate import Reference, paired_verdict
from sparring.metrics.features import (
    CifarResNetFeatures,
    ClassifierFeatures,
    DINOv2Features,
    Features,
    InceptionFeatures,
    Module,
    Pixels,
    extract,
)
from sparring.metrics.stream import FeatureStream

__all__ = [
    "CifarResNetFeatures",
    "ClassifierFeatures",
    "DINOv2Features",
    "FeatureStream",
    "Features",
    "InceptionFeatures",
    "Module",
    "Pixels",
    "Reference",
    "extract",
    "paired_verdict",
]
