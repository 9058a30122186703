"""Networks and layers that no library ships, and adapters of stock networks."""

from sparring.networks.aligner import Aligner
from sparring.networks.block_unet import BlockUNet
from sparring.networks.code_unet import CodeUNet
from sparring.networks.conv_discriminator import ConvDiscriminator
from sparring.networks.conv_generator import ConvGenerator
from sparring.networks.decoder_guide import DecoderGuide
from sparring.networks.edit_net import EditNet
from sparring.networks.edm2 import MPUNet
from sparring.networks.energy import EnergyMLP, EnergyUNet
from sparring.networks.equilibrium import EquilibriumTransformer
from sparring.networks.gaussian_policy import GaussianPolicy
from sparring.networks.glow import GlowNet
from sparring.networks.graph_transformer import GraphTransformer
from sparring.networks.growing import GrowingDiscriminator, GrowingGenerator
from sparring.networks.half_unet import HalfUNet
from sparring.networks.joint_unet import JointUNet
from sparring.networks.latent_slot import LatentSlot
from sparring.networks.layout_generator import LayoutGenerator
from sparring.networks.mlp import MLP, Perceptron, StepPerceptron
from sparring.networks.one_image import OneImage
from sparring.networks.skip_vit import SkipViT
from sparring.networks.source_unet import SourceUNet
from sparring.networks.super_perceptron import SmallPerceptron, SuperPerceptron
from sparring.networks.turbo_unet import TurboUNet
from sparring.networks.wavelet import HaarWavelet

__all__ = [
    "MLP",
    "Aligner",
    "BlockUNet",
    "CodeUNet",
    "ConvDiscriminator",
    "ConvGenerator",
    "DecoderGuide",
    "EditNet",
    "EnergyMLP",
    "EnergyUNet",
    "EquilibriumTransformer",
    "GaussianPolicy",
    "GlowNet",
    "GraphTransformer",
    "GrowingDiscriminator",
    "GrowingGenerator",
    "HaarWavelet",
    "HalfUNet",
    "JointUNet",
    "LatentSlot",
    "LayoutGenerator",
    "MPUNet",
    "OneImage",
    "Perceptron",
    "SkipViT",
    "SmallPerceptron",
    "SourceUNet",
    "StepPerceptron",
    "SuperPerceptron",
    "TurboUNet",
]
