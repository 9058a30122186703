"""Networks and layers that no library ships, and adapters of stock networks."""

from sparring.networks.conv_discriminator import ConvDiscriminator
from sparring.networks.conv_generator import ConvGenerator
from sparring.networks.mlp import MLP, Perceptron
from sparring.networks.source_unet import SourceUNet

__all__ = ["MLP", "ConvDiscriminator", "ConvGenerator", "Perceptron", "SourceUNet"]
