"""Measuring generated images: feature networks and the numbers computed on them."""

from sparring.metrics.features import (
    CifarResNetFeatures,
    DINOv2Features,
    Features,
    InceptionFeatures,
    Module,
    Pixels,
    extract,
)
from sparring.metrics.learned import ClassifierFeatures, LearnedFeatures, SelfSupervisedFeatures, file_features
from sparring.metrics.reference import Reference
from sparring.metrics.stream import FeatureStream

__all__ = [
    "CifarResNetFeatures",
    "ClassifierFeatures",
    "DINOv2Features",
    "FeatureStream",
    "Features",
    "InceptionFeatures",
    "LearnedFeatures",
    "Module",
    "Pixels",
    "Reference",
    "SelfSupervisedFeatures",
    "extract",
    "file_features",
]
