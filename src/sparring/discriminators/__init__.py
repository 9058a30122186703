"""Discriminators: of single images, of pairs and of batches."""

from sparring.discriminators.adaptive import Augmented, Diffused
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.denoiser_copy import DenoiserDiscriminator
from sparring.discriminators.denoiser_heads import DenoiserHeads
from sparring.discriminators.diffusion_classifier import DiffusionClassifier
from sparring.discriminators.discriminator import Discriminator, Features, Given, Views, check_single, check_told
from sparring.discriminators.field import fields_of
from sparring.discriminators.losses import discriminator_losses, generator_loss
from sparring.discriminators.middle_head import DenoiserAndHead, MiddleHead
from sparring.discriminators.pair import PairDiscriminator
from sparring.discriminators.pixels import PixelDiscriminator
from sparring.discriminators.plain import PlainDiscriminator
from sparring.discriminators.projected import ProjectedDiscriminator
from sparring.discriminators.reconstructing import ReconstructingDiscriminator
from sparring.discriminators.siamese import SiameseDiscriminator
from sparring.discriminators.sliced import SlicedDiscriminator
from sparring.discriminators.structure import StructureDiscriminator

__all__ = [
    "DenoiserAndHead",
    "DenoiserDiscriminator",
    "DenoiserHeads",
    "Augmented",
    "DiffAugment",
    "Diffused",
    "DiffusionClassifier",
    "Discriminator",
    "Features",
    "Given",
    "MiddleHead",
    "PairDiscriminator",
    "PixelDiscriminator",
    "PlainDiscriminator",
    "ProjectedDiscriminator",
    "ReconstructingDiscriminator",
    "SiameseDiscriminator",
    "SlicedDiscriminator",
    "StructureDiscriminator",
    "Views",
    "check_single",
    "check_told",
    "discriminator_losses",
    "fields_of",
    "generator_loss",
]
