"""Discriminators: judges of images or of batches, and the backbones they look through.

Every discriminator has two hooks for the trainer: `prepare(images, labels)`, once before training, and
`after_update()`, after each optimiser step on the discriminator.
"""

from sparring.discriminators.affinity import structure_distance
from sparring.discriminators.augment import DiffAugment
from sparring.discriminators.autoencoder import AutoencoderFeatures
from sparring.discriminators.backbones import Backbone, freeze
from sparring.discriminators.convnet import SmallConvNet
from sparring.discriminators.dinov2 import DINOv2
from sparring.discriminators.encoder_file import FileEncoder, save_encoder
from sparring.discriminators.fitting import fit_classifier, fit_self_supervised, nt_xent
from sparring.discriminators.projected import ProjectedDiscriminator
from sparring.discriminators.resnet import CifarResNet
from sparring.discriminators.siamese import SiameseDiscriminator
from sparring.discriminators.structure import StructureDiscriminator

__all__ = [
    "AutoencoderFeatures",
    "Backbone",
    "CifarResNet",
    "DINOv2",
    "DiffAugment",
    "FileEncoder",
    "ProjectedDiscriminator",
    "SiameseDiscriminator",
    "SmallConvNet",
    "StructureDiscriminator",
    "fit_classifier",
    "fit_self_supervised",
    "freeze",
    "nt_xent",
    "save_encoder",
    "structure_distance",
]
