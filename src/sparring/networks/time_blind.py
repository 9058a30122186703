"""Denoising networks that do not take the time: their time embedding is a trained constant."""

from collections.abc import Iterator

from diffusers.models.embeddings import TimestepEmbedding
from torch import nn

from sparring.networks.mlp import MLP


def first_time_layers(net: nn.Module) -> Iterator[nn.Linear]:
    """The first layers of the time embeddings in a network of diffusers, or an MLP: the time enters only there."""
    for part in net.modules():
        if isinstance(part, TimestepEmbedding):
            yield part.linear_1
        elif isinstance(part, MLP):
            yield part.time_embedding[0]


def blind_to_time(net: nn.Module) -> None:
    """Puts these layers' weights to 0, where `keep_blind` freezes them: what is left of the time is their bias.

    So the network stays of its class, and any pipeline that tells it the time draws what it would draw without. Source:
    the question of Sun et al. 2025 (arXiv 2502.13129); the way is ours.

    Raises:
        ValueError: a network whose time embedding is not known.
    """
    layers = list(first_time_layers(net))
    if not layers:
        raise ValueError(f"`time_blind`: no time embedding is known in a {type(net).__name__}; leave it out")
    for layer in layers:
        layer.weight.data.zero_()


def keep_blind(net: nn.Module) -> None:
    """Freezes those of these layers that are blind already, as those of a folder may be, with adapters around them."""
    for layer in first_time_layers(net):
        if not layer.weight.any():
            for name, parameter in layer.named_parameters():
                if not name.endswith("bias"):
                    parameter.requires_grad_(False)
