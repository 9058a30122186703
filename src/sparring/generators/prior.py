"""Priors of a latent generator that are not the standard normal law: maps from standard normal numbers to latents.

A prior is part of the generator: what of it is trained is averaged, saved and sampled with the network.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A law of latents, as what a map makes of standard normal numbers; so samples need no other kind of draw.

    Attributes:
        latent_dim: numbers in a latent.
        noise_dim: standard normal numbers that one latent is made of.

    Raises:
        ValueError: fewer than one number.
    """

    def __init__(self, latent_dim: int, noise_dim: int) -> None:
        super().__init__()
        if min(latent_dim, noise_dim) < 1:
            raise ValueError(f"`latent_dim={latent_dim}`: a latent has at least 1 number")
        self.latent_dim, self.noise_dim = latent_dim, noise_dim

    @abstractmethod
    def forward(self, noise: Tensor) -> Tensor:
        """Latents [B, latent_dim] of noise [B, noise_dim]."""


class Uniform(Prior):
    """Uniform in (-1, 1) in every coordinate.

    Args:
        latent_dim: Numbers in z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, latent_dim)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.erf(noise / 2**0.5)  # 2 Phi(noise) - 1


class FittedGaussian(Prior):
    """The normal law with the mean and the full covariance of codes; the standard one until `fit`.

    Args:
        latent_dim: Numbers in z.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, latent_dim)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("covariance", torch.eye(latent_dim))

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Takes over the mean and the covariance of codes [N, latent_dim], N >= 2."""
        self.mean.copy_(codes.mean(0))
        self.covariance.copy_(torch.cov(codes.T).view_as(self.covariance))

    def forward(self, noise: Tensor) -> Tensor:
        values, axes = torch.linalg.eigh(self.covariance.double())
        root = axes * values.clamp_min(0).sqrt() @ axes.T
        return self.mean.to(noise) + noise @ root.to(noise)
