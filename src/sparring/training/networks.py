"""Distributed gathering, gradient checkpointing, torch.compile. Results do not change."""

import torch

from sparring.generators import Denoiser
from sparring.methods.method import Method
from sparring.networks.quantized import Quantized
from sparring.process import LearnedTimes
from sparring.training import processes


def prepare_networks(method: Method, *, gradient_checkpointing: bool, compile: bool) -> None:
    """Sets up the networks in place; their names in checkpoints stay.

    Args:
        method: what is trained.
        gradient_checkpointing: the generator's network, and copies of it that other players or losses go through,
            compute their activations again in the backward pass.
        compile: the networks of all generators go through `torch.compile`.

    Raises:
        ValueError: a generator that has no gradient checkpointing; a compiled network with quantised layers.
    """
    if processes.world() > 1:
        for discriminator in method.discriminators():
            discriminator.gather = processes.gather_rows
        for part in method.modules():
            if isinstance(part, LearnedTimes):
                part.gather = processes.gather_rows
    if gradient_checkpointing:
        method.generator.enable_gradient_checkpointing()
        for part in method.modules():
            if isinstance(part, Denoiser):
                part.enable_gradient_checkpointing()
    if compile:
        for generator in method.generators():
            for network in generator.networks():
                if any(isinstance(layer, Quantized) for layer in network.modules()):
                    raise ValueError("`compile`: not with a base in 8 or 4 bits; leave it out, or take bf16")
                network.compile()


def device_name(device: torch.device) -> str:
    """What the run computes on, for its configuration."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
