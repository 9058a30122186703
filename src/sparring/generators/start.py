"""What a sampler begins from, if that is not standard normal noise: shipped beside the network in its pipeline."""

from abc import abstractmethod
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from sparring.process.noise import student_t


class Start(ModelMixin, ConfigMixin):
    """A density at the noisiest level of a process, as a map of standard normal and uniform numbers."""

    @abstractmethod
    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """Noisy images x_t [B, C, H, W] at the last time, of normal z [B, C, H, W] and u [B] in (0, 1)."""

    def size_for(self, shape: tuple[int, ...]) -> None:
        """Called before training with the shape of a row: the place for what has its size."""

    def fit(self, x: Tensor, seed: int) -> None:
        """Called once before a run with noisy images x [n, C, H, W] of the last time; by default nothing is learned."""


class StudentTStart(Start):
    """sigma times noise of the Student t law, the start of PFGM++ (arXiv 2302.04265).

    Args:
        dimension: Degrees of freedom D of the law.
        sigma: Its scale, the largest of the process.
    """

    scale: Tensor

    @register_to_config
    def __init__(self, dimension: float, sigma: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(sigma)))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.scale.to(z) * student_t(z, u, self.config["dimension"])


class MixtureStart(Start):
    """A mixture of Gaussians that is fitted to noisy training images by EM (scikit-learn), before the first step.

    It lets the forward process stop early (`VP.last_time`), where data with noise is near to a mixture and not to the
    standard normal law. Source: Franzese et al. 2023 (arXiv 2206.05173), the auxiliary density; the mixture with full
    covariances is ours.

    Args:
        components: Gaussians; 1 is one normal law, 16 is ours.
        covariance: "full" or "diag".
        numbers: Numbers of a row; set by itself.
    """

    @register_to_config
    def __init__(
        self, components: int = 16, covariance: Literal["full", "diag"] = "full", numbers: int | None = None
    ) -> None:
        super().__init__()
        if components < 1 or covariance not in ("full", "diag"):
            raise ValueError(f"`components={components}` must be 1 or more, `covariance={covariance}` full or diag")
        self.weights = self.means = self.roots = nn.Parameter(torch.zeros(0), requires_grad=False)
        self._allocate(numbers or 0)

    def size_for(self, shape: tuple[int, ...]) -> None:
        numbers = torch.Size(shape).numel()
        if self.config["numbers"] not in (None, numbers):
            raise ValueError(f"the start density was fitted to {self.config['numbers']} numbers, not to {numbers}")
        if self.config["numbers"] is None:
            self.register_to_config(numbers=numbers)
            self._allocate(numbers)

    def fit(self, x: Tensor, seed: int) -> None:
        k = self.config["components"]
        if len(x) < 2 * k:
            raise ValueError(f"`start.components={k}`: {len(x)} images are too few to fit them")
        fitted = GaussianMixture(k, covariance_type=self.config["covariance"], random_state=seed % 2**32)
        fitted.fit(x.flatten(1).double().cpu().numpy())
        covariances = torch.from_numpy(fitted.covariances_)
        roots = torch.linalg.cholesky(covariances) if self.config["covariance"] == "full" else covariances.sqrt()
        found = (torch.from_numpy(fitted.weights_), torch.from_numpy(fitted.means_), roots)
        for parameter, value in zip((self.weights, self.means, self.roots), found, strict=True):
            parameter.data = value.to(parameter.device, parameter.dtype)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        edges = self.weights.double().cumsum(0)
        chosen = torch.searchsorted(edges, u.to(edges) * edges[-1]).clamp(max=len(edges) - 1)
        flat, x = z.flatten(1), torch.empty_like(z).flatten(1)
        for k in chosen.unique().tolist():
            rows = chosen == k
            root = self.roots[k].to(z)
            moved = flat[rows] @ root.T if root.ndim == 2 else flat[rows] * root
            x[rows] = self.means[k].to(z) + moved
        return x.view_as(z)

    def _allocate(self, numbers: int) -> None:
        k, square = self.config["components"], self.config["covariance"] == "full"
        shapes = [(k,), (k, numbers), (k, numbers, numbers) if square else (k, numbers)]
        made = [nn.Parameter(torch.zeros(s, device=self.weights.device), requires_grad=False) for s in shapes]
        self.weights, self.means, self.roots = made
