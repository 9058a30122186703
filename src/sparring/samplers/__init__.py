"""Samplers: from a trained generator to samples."""

from sparring.samplers.sampler import Sampler, Samples, save_animation, save_images

__all__ = ["Sampler", "Samples", "save_animation", "save_images"]
