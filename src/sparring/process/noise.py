"""The noise of a process: its law (kernels) and how it is dealt out to the images of a batch (couplings)."""

from abc import ABC, abstractmethod

import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaincinv
from torch import Tensor

from sparring.data import Draws

HALF_STEP = 2.0**-25  # of a float32 number in [0, 1): keeps it off both ends


class Kernel(ABC):
    """The law of the noise eps of a process, of unit scale.

    Attributes:
        gaussian: whether it is the normal law, as ancestral sampling, posteriors and noise on the way take it to be.
    """

    gaussian: bool = True

    def __call__(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        """Noise of `shape` [B, ...], float32."""
        return self.of_normal(draws.normal(shape), draws)

    @abstractmethod
    def of_normal(self, z: Tensor, draws: Draws) -> Tensor:
        """Noise made of standard normal z [B, ...]."""


class Gaussian(Kernel):
    """Standard normal noise."""

    def of_normal(self, z: Tensor, draws: Draws) -> Tensor:
        return z


def student_t(z: Tensor, u: Tensor, dimension: float) -> Tensor:
    """z sqrt(D / chi2), chi2 with D degrees of freedom for each row: a multivariate Student t law of unit scale.

    Its variance is D / (D - 2) per number, and infinite for D up to 2. In N dimensions its radius is sqrt(D N F), that
    is, R^2 = D BetaPrime(N / 2, D / 2), the kernel of PFGM++ (Xu et al. 2023, arXiv 2302.04265); in this form derived.

    Args:
        z: standard normal numbers [B, ...].
        u: uniform numbers [B] in (0, 1), of which chi2 is the quantile (computed in float64 on the CPU).
        dimension: D.
    """
    chi2 = 2 * torch.from_numpy(gammaincinv(dimension / 2, u.double().cpu().numpy()))
    return (dimension / chi2).sqrt().to(z).view(-1, *[1] * (z.ndim - 1)) * z


class StudentT(Kernel):
    """Heavy-tailed noise, the kernel of PFGM++; it tends to the Gaussian one as D grows.

    Args:
        dimension: D; 128 is the paper's for small images, 2048 its best on CIFAR-10.
    """

    gaussian = False

    def __init__(self, *, dimension: float = 128) -> None:
        if not 0 < dimension < float("inf"):
            raise ValueError(f"`dimension={dimension}` must be above 0 and finite; without it noise is Gaussian")
        self.dimension = dimension

    def of_normal(self, z: Tensor, draws: Draws) -> Tensor:
        return student_t(z, draws.uniform((len(z),)) + HALF_STEP, self.dimension)


class Coupling(ABC):
    """Which noise goes to which image of a batch, in training."""

    @abstractmethod
    def __call__(self, draws: Draws, x_0: Tensor, kernel: Kernel) -> Tensor:
        """Noise eps for what is diffused, x_0 [B, C, H, W], of its shape and precision."""

    group: int | None = None
    """Rows that must be seen at once, or all of a smaller batch; None: any number."""

    def check(self, seen: int, total: int) -> None:
        """Raises ValueError if a batch of `total` rows, of which `seen` at once, cannot be coupled."""
        if self.group is not None and seen < total and seen % self.group:
            raise ValueError(
                f"`coupling.group={self.group}`: noise is dealt out among {self.group} images side by side, and of a "
                f"batch of {total} images {seen} are seen at once: give a `coupling.group` that divides {seen}, or a "
                "batch in fewer parts (`accumulation`, processes)"
            )


class Independent(Coupling):
    """Noise that knows nothing of the image."""

    def __call__(self, draws: Draws, x_0: Tensor, kernel: Kernel) -> Tensor:
        return kernel(draws, tuple(x_0.shape)).to(x_0)


class Nearest(Coupling):
    """Of k noises for each image the nearest, row by row. Source: Li et al. 2025 (arXiv 2505.18521), with k = 4.

    The noise that is trained on gets smaller than the one that sampling starts from: with x_0 of deviation 0.5 its
    power falls to 0.86, 0.82 and 0.71 for k = 4, 8 and 64 in 64 dimensions, and to 0.98, 0.97 and 0.95 in 3072.

    Args:
        k: noises that are drawn for each image.
    """

    def __init__(self, *, k: int = 4) -> None:
        if k < 1:
            raise ValueError(f"`k={k}` must be at least 1")
        self.k = k

    def __call__(self, draws: Draws, x_0: Tensor, kernel: Kernel) -> Tensor:
        candidates = torch.stack([kernel(draws, tuple(x_0.shape)).to(x_0) for _ in range(self.k)], dim=1)
        distance = (candidates - x_0[:, None]).square().flatten(2).sum(2)
        return candidates[torch.arange(len(x_0), device=x_0.device), distance.argmin(1)]


class Assignment(Coupling):
    """The noises of a batch dealt out so that the sum of squared distances between image and noise is least.

    All noises of the batch are used once, so their law stays what it is; image and noise are correlated, and so a
    denoiser is to be sampled without noise on the way (ddim, dpm, heun ...). It is solved on the CPU (scipy). Source:
    Li et al. 2024, "Immiscible Diffusion" (arXiv 2406.12303), among all rows; groups are ours, as the cost grows with
    the square of their size: of a digits step at batch 512 it is 1.3 % in groups of 64 and 20 % among all rows, and the
    distance falls by 8 and by 10 %.

    Args:
        group: rows among which noises are dealt out, side by side in the batch, or what is left of it: with it,
            micro-batches and several processes give what one batch gives. None: all rows, which then must be on one
            device at once.
    """

    def __init__(self, *, group: int | None = 64) -> None:
        if group is not None and group < 2:
            raise ValueError(f"`group={group}` must be at least 2")
        self.group = group

    def __call__(self, draws: Draws, x_0: Tensor, kernel: Kernel) -> Tensor:
        n = len(x_0)
        if self.group is None and draws.total not in (None, n):
            raise ValueError(
                f"`coupling=Assignment` deals out the noises of all {draws.total} images and sees {n} at once: give "
                "`coupling.group`, a number that divides what is seen at once"
            )
        self.check(n, draws.total or n)
        eps, size = kernel(draws, tuple(x_0.shape)).to(x_0), self.group or n
        pairs = zip(x_0.detach().flatten(1).split(size), eps.flatten(1).split(size), strict=True)
        with torch.autocast(x_0.device.type, enabled=False):
            gains = [(x @ noise.T).cpu().numpy() for x, noise in pairs]  # all that a permutation changes
        order = [linear_sum_assignment(gain, maximize=True)[1] + size * i for i, gain in enumerate(gains)]
        return eps[torch.cat([torch.from_numpy(one) for one in order]).to(eps.device)]
