"""Generators: what is trained, kept and shipped."""

from sparring.generators.condition import Condition, Prompts, TextCondition
from sparring.generators.denoiser import Denoiser
from sparring.generators.pipeline import load_pipeline, save_pipeline
from sparring.generators.prediction import Prediction
from sparring.generators.pretrained import Pretrained

__all__ = [
    "Condition",
    "Denoiser",
    "Prediction",
    "Pretrained",
    "Prompts",
    "TextCondition",
    "load_pipeline",
    "save_pipeline",
]
