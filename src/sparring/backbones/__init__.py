"""Backbones: networks that turn images into feature maps and vectors, for discriminators, metrics and probes."""

from sparring.backbones.autoencoder import AutoencoderFeatures
from sparring.backbones.backbone import Backbone, freeze
from sparring.backbones.convnet import SmallConvNet
from sparring.backbones.dinov2 import DINOv2
from sparring.backbones.efficientnet import EfficientNetLite
from sparring.backbones.experts import Experts
from sparring.backbones.feature_flow import FeatureFlow
from sparring.backbones.fitting import fit_classifier, fit_self_supervised, images_to_learn, nt_xent
from sparring.backbones.from_file import FileEncoder, save_encoder
from sparring.backbones.inception import Inception
from sparring.backbones.pixels import Pixels, Points
from sparring.backbones.resnet import CifarResNet
from sparring.backbones.wrapped import Standardised, Wrapped

__all__ = [
    "AutoencoderFeatures",
    "Backbone",
    "CifarResNet",
    "DINOv2",
    "EfficientNetLite",
    "Experts",
    "FeatureFlow",
    "FileEncoder",
    "Inception",
    "Pixels",
    "Points",
    "SmallConvNet",
    "Standardised",
    "Wrapped",
    "fit_classifier",
    "fit_self_supervised",
    "freeze",
    "images_to_learn",
    "nt_xent",
    "save_encoder",
]
