"""Discriminators: of single images, of pairs and of batches."""

from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.discriminator import Discriminator, Features, Given, leaves
from sparring.discriminators.projected import ProjectedDiscriminator
from sparring.discriminators.siamese import SiameseDiscriminator
from sparring.discriminators.structure import StructureDiscriminator

__all__ = [
    "DiffAugment",
    "Discriminator",
    "Features",
    "Given",
    "ProjectedDiscriminator",
    "SiameseDiscriminator",
    "StructureDiscriminator",
    "leaves",
]
