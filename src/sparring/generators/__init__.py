"""Generators: what is trained, kept and shipped."""

from sparring.generators.bridge import Bridge
from sparring.generators.clusters import Clusters
from sparring.generators.condition import Condition, TextCondition
from sparring.generators.denoiser import Denoiser
from sparring.generators.denoising_network import DenoisingNetwork
from sparring.generators.families import Family, family_of
from sparring.generators.generator import Generator
from sparring.generators.guide import Guide
from sparring.generators.joint import JointDenoiser
from sparring.generators.latent import LatentGenerator
from sparring.generators.layouts import Layouts
from sparring.generators.loading import holds_generator, load_generator, load_pipeline
from sparring.generators.own_source import Coder, Drafts, Memory, OwnSource
from sparring.generators.prediction import Prediction
from sparring.generators.pretrained import Pretrained
from sparring.generators.prior import Classes, FittedGaussian, Mixture, Prior, Tempered, Uniform
from sparring.generators.sampling import Sampling
from sparring.generators.visual_prior import VisualPrior

__all__ = [
    "Bridge",
    "Classes",
    "Clusters",
    "Coder",
    "Condition",
    "Denoiser",
    "DenoisingNetwork",
    "Drafts",
    "Family",
    "FittedGaussian",
    "Generator",
    "Guide",
    "JointDenoiser",
    "LatentGenerator",
    "Layouts",
    "Memory",
    "Mixture",
    "OwnSource",
    "Prediction",
    "Pretrained",
    "Prior",
    "Sampling",
    "Tempered",
    "TextCondition",
    "Uniform",
    "VisualPrior",
    "family_of",
    "holds_generator",
    "load_generator",
    "load_pipeline",
]
