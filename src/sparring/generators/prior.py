"""Priors of a latent generator that are not the standard normal law: maps from standard normal numbers to latents.

A prior is part of the generator: what of it is trained is averaged, saved and sampled with the network.
"""

import math
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


class Tempered(Prior):
    """The normal law with a smaller deviation: samples of a flow that are likelier and less diverse.

    Source: Kingma and Dhariwal 2018, "Glow" (arXiv 1807.03039), with 0.7.

    Args:
        latent_dim: Numbers in z.
        temperature: The deviation.

    Raises:
        ValueError: A temperature below 0.
    """

    def __init__(self, latent_dim: int, temperature: float = 0.7) -> None:
        super().__init__(latent_dim, latent_dim)
        if temperature < 0:
            raise ValueError(f"`temperature={temperature}` must be 0 or more")
        self.temperature = temperature

    def forward(self, noise: Tensor) -> Tensor:
        return self.temperature * noise


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


class Proportional(Prior):
    """A prior of several parts, one for each row, in proportions `softmax(logits)` that can be trained.

    The last number of the noise chooses the part.
    """

    logits: nn.Parameter

    @property
    def shares(self) -> Tensor:
        """[K] proportions."""
        return self.logits.softmax(0)

    def component(self, noise: Tensor) -> Tensor:
        """[B] the parts that noise [B, noise_dim] chooses, as classes 0 to K - 1."""
        uniform, ends = 0.5 * (1 + torch.erf(noise[:, -1] / 2**0.5)), self.shares.detach().cumsum(0)
        return torch.searchsorted(ends.to(uniform), uniform.contiguous()).clamp(max=len(ends) - 1)


class Mixture(Proportional):
    """A mixture of Gaussians whose proportions, means and standard deviations (one per coordinate) can be trained.

    The gradient of what comes later reaches means and deviations as if z moved with them by its responsibilities
    (implicit reparameterisation): with g the gradient at z, `q_k g` at mean k and `q_k (z - mu_k) g` at the logarithm
    of deviation k. Source: Hwang et al. 2021, "Stein Latent Optimization for Generative Adversarial Networks" (arXiv
    2106.05319), there with full covariances. The proportions, which choose the component, get none; see `log_joint`.

    Args:
        latent_dim: Numbers in z.
        components: Gaussians; the proportions are equal at the start.
        spread: Standard deviation of the means at the start, that of z around them being 1.

    Raises:
        ValueError: Fewer than two components, or a spread that is not above 0.
    """

    def __init__(self, latent_dim: int, components: int, spread: float = 0.1) -> None:
        super().__init__(latent_dim, latent_dim + 1)
        if components < 2 or spread <= 0:
            raise ValueError(f"`components={components}`, `spread={spread}`: at least two, and a spread above 0")
        self.components, self.spread = components, spread
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * torch.randn(components, latent_dim))
        self.log_stds = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, noise: Tensor) -> Tensor:
        component, means, log_stds = self.component(noise), self.means.detach(), self.log_stds.detach()
        z = means[component] + log_stds[component].exp() * noise[:, :-1]
        share = self.responsibilities(z).detach()
        moved = share @ (self.means - means)
        stretched = torch.einsum("bk,bkd,kd->bd", share, z[:, None] - means, self.log_stds - log_stds)
        return z + moved + stretched  # the value is z

    def log_joint(self, z: Tensor) -> Tensor:
        """[B, components] `log pi_k N(z; mu_k, S_k)` of latents [B, latent_dim]."""
        standard = (z[:, None] - self.means) * (-self.log_stds).exp()
        normal = -0.5 * standard.square().sum(2) - self.log_stds.sum(1) - 0.5 * self.latent_dim * math.log(2 * math.pi)
        return self.logits.log_softmax(0) + normal

    def responsibilities(self, z: Tensor) -> Tensor:
        """[B, components] the probability of each component, given z."""
        return self.log_joint(z).softmax(1)


class Classes(Proportional):
    """Standard normal numbers and a class as one-hot numbers behind them, whose proportions can be trained.

    Args:
        latent_dim: Numbers in z, the one-hot ones among them.
        num_classes: Classes, which are equally frequent at the start.

    Raises:
        ValueError: Fewer than two classes, or no number that is left for the normal ones.
    """

    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, latent_dim - num_classes + 1)
        if not 2 <= num_classes < latent_dim:
            raise ValueError(f"`num_classes={num_classes}` must lie in 2..{latent_dim - 1}, below `latent_dim`")
        self.num_classes = num_classes
        self.logits = nn.Parameter(torch.zeros(num_classes))

    def forward(self, noise: Tensor) -> Tensor:
        return torch.cat([noise[:, :-1], nn.functional.one_hot(self.component(noise), self.num_classes).to(noise)], 1)
