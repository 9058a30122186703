"""Toy densities in the plane, as images of shape (2, 1, 1): what is true about them is known."""

import math
from abc import abstractmethod
from copy import copy
from typing import Self

import torch
from torch import Generator, Tensor

from sparring.data.base import StoredImages
from sparring.data.draws import derived_seed


class ToyDensity(StoredImages):
    """A fixed sample of a density in the plane; channel 0 is x, channel 1 is y, nearly all within [-1, 1].

    Args:
        name: for tables and reports.
        num_samples: size of the fixed sample.
        seed: of the fixed sample.
        num_classes: None without labels.
    """

    def __init__(self, *, name: str, num_samples: int, seed: int, num_classes: int | None = None):
        if num_samples < 1:
            raise ValueError(f"`num_samples={num_samples}` must be at least 1")
        self.seed = seed
        images, labels = self._sample(num_samples, seed, name)
        super().__init__(images, labels, name=name, num_classes=num_classes)

    @abstractmethod
    def _points(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """(n, 2) float32 points and (n,) labels or None."""

    def sample(self, n: int, seed: int) -> Tensor:
        """(n, 2, 1, 1) float32: fresh points, independent of the fixed sample."""
        return self._sample(n, seed, self.name, "fresh")[0]

    def holdout(self) -> Self:
        """The same density with as many fresh points."""
        other = copy(self)
        other.name = f"{self.name}:holdout"
        other._images, other._labels = self._sample(len(self), self.seed, other.name)
        return other

    def _sample(self, n: int, *parts: int | str) -> tuple[Tensor, Tensor | None]:
        points, labels = self._points(n, torch.Generator().manual_seed(derived_seed(*parts)))
        return points[:, :, None, None], labels


class Mixture(ToyDensity):
    """Equal round Gaussians in the plane; a sample's label is its mode.

    Attributes:
        centres: (modes, 2) true means.
        std: true standard deviation of each Gaussian, per coordinate.
    """

    def __init__(self, centres: Tensor, std: float, *, name: str, num_samples: int, seed: int):
        self.centres = centres
        self.std = std
        super().__init__(name=name, num_samples=num_samples, seed=seed, num_classes=len(centres))

    def _points(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        mode = torch.randint(len(self.centres), (n,), generator=generator)
        return self.centres[mode] + self.std * torch.randn(n, 2, generator=generator), mode


class GaussianMixture(Mixture):
    """Equal round Gaussians on a ring.

    Args:
        modes: number of Gaussians.
        radius: of the ring.
        std: true standard deviation of each Gaussian, per coordinate.
        num_samples: size of the fixed sample.
        seed: of the fixed sample.

    Raises:
        ValueError: no mode, a negative radius, a standard deviation that is not above 0.
    """

    def __init__(
        self, *, modes: int = 8, radius: float = 0.75, std: float = 0.05, num_samples: int = 10_000, seed: int = 0
    ):
        if modes < 1 or radius < 0 or std <= 0:
            raise ValueError(
                f"`modes={modes}`, `radius={radius}`, `std={std}`: needs a mode, and a std above 0 (radius 0 or more)"
            )
        angles = torch.arange(modes) * (2 * math.pi / modes)
        centres = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
        super().__init__(centres, std, name="ring", num_samples=num_samples, seed=seed)


class GaussianGrid(Mixture):
    """Equal round Gaussians on a square grid: 25 of them with means in {-0.8, -0.4, 0, 0.4, 0.8}^2.

    Source: Lin et al. 2018, "PacGAN: The power of two samples in generative adversarial networks", section 4.1. Its
    means lie in {-4, -2, 0, 2, 4}^2 with a standard deviation of 0.05; here all is scaled to [-1, 1], and the modes are
    wider than theirs.

    Args:
        side: Gaussians along each side, at least 2.
        extent: the outermost means are at -extent and extent.
        std: true standard deviation of each Gaussian, per coordinate.
        num_samples: size of the fixed sample.
        seed: of the fixed sample.

    Raises:
        ValueError: fewer than 2 Gaussians along a side, an extent or a standard deviation that is not above 0.
    """

    def __init__(
        self, *, side: int = 5, extent: float = 0.8, std: float = 0.02, num_samples: int = 10_000, seed: int = 0
    ):
        if side < 2 or extent <= 0 or std <= 0:
            raise ValueError(
                f"`side={side}`, `extent={extent}`, `std={std}`: needs a side of 2 or more, and the others above 0"
            )
        line = torch.linspace(-extent, extent, side)
        centres = torch.cartesian_prod(line, line)
        super().__init__(centres, std, name=f"grid{side * side}", num_samples=num_samples, seed=seed)


class SwissRoll(ToyDensity):
    """A spiral of one and a half turns (angle uniform in [1.5 pi, 4.5 pi], radius proportional to it), plus noise.

    Args:
        noise: standard deviation across the spiral; the spiral's outer radius is 0.9.
        num_samples: size of the fixed sample.
        seed: of the fixed sample.
    """

    def __init__(self, *, noise: float = 0.02, num_samples: int = 10_000, seed: int = 0):
        if noise < 0:
            raise ValueError(f"`noise={noise}` must not be negative")
        self.noise = noise
        super().__init__(name="swissroll", num_samples=num_samples, seed=seed)

    def _points(self, n: int, generator: Generator) -> tuple[Tensor, None]:
        angle = math.pi * (1.5 + 3 * torch.rand(n, generator=generator))
        radius = 0.9 * angle / (4.5 * math.pi)
        spiral = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return spiral + self.noise * torch.randn(n, 2, generator=generator), None


class Checkerboard(ToyDensity):
    """Uniform on the eight fields of one colour of a 4 x 4 board that fills [-1, 1]^2.

    Args:
        num_samples: size of the fixed sample.
        seed: of the fixed sample.
    """

    def __init__(self, *, num_samples: int = 10_000, seed: int = 0):
        super().__init__(name="checkerboard", num_samples=num_samples, seed=seed)

    def _points(self, n: int, generator: Generator) -> tuple[Tensor, None]:
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        inside = torch.rand(n, 2, generator=generator)
        return (torch.stack([column, row], dim=1) + inside) / 2 - 1, None
