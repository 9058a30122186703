"""Samplers: from a trained generator to samples."""

from sparring.samplers.sampler import Sampler, Samples, SampleStream, save_animation, save_images, save_picture

__all__ = ["SampleStream", "Sampler", "Samples", "save_animation", "save_images", "save_picture"]
