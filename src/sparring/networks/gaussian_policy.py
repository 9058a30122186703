"""A policy: from a state to a normal law of actions."""

import math

import torch
from torch import Tensor, nn


class GaussianPolicy(nn.Module):
    """Actions `mean(source) + exp(spread) z` [B, 2, 1, 1] of positions; the network of a `LatentGenerator`.

    Args:
        latent_dim: numbers in z, 2.
        width: of the hidden layers.
        depth: hidden layers.
        log_std: logarithm of the standard deviation at the start; it is trained, and the same for every position.

    Raises:
        ValueError: latents of another size than actions, or no layer.
    """

    def __init__(self, *, latent_dim: int = 2, width: int = 64, depth: int = 2, log_std: float = -0.7) -> None:
        super().__init__()
        if latent_dim != 2 or width < 1 or depth < 1:
            raise ValueError(f"`latent_dim={latent_dim}` must be 2, `width={width}` and `depth={depth}` at least 1")
        self.latent_dim, self.width, self.depth, self.log_std = latent_dim, width, depth, log_std
        sizes = [2, *[width] * depth]
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.Tanh())]
        self.mean = nn.Sequential(*layers, nn.Linear(width, 2))
        self.spread = nn.Parameter(torch.full((2,), log_std))

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(2, 1, 1): a position."""
        return 2, 1, 1

    def forward(self, z: Tensor, source: Tensor) -> Tensor:
        """Actions [B, 2, 1, 1] of latents [B, 2] and positions [B, 2, 1, 1]."""
        return (self.mean(source.flatten(1)) + self.spread.exp() * z)[:, :, None, None]


def log_likelihood(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """[B] log density of actions [B, d] under N(mean, exp(log_std)^2), mean [B, d] and log_std [d]."""
    z = (action - mean) / log_std.exp()
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
