"""Frechet and kernel distance of a stream of images: one pass, constant memory, several processes."""

from typing import Any, Self

from torch import Tensor

from sparring.backbones import Backbone
from sparring.metrics.extract import extract
from sparring.metrics.frechet import Gaussian, frechet_between
from sparring.metrics.kernel import MAX_DIM, KernelMoments
from sparring.metrics.moments import Moments


class FeatureStream:
    """What two streams need for their distances, kept as sums: the images and their features are not.

    Each process holds its own stream; `across_processes` gives all of them the sum. A sampler that pads its last batch
    to equal lengths on all processes counts the padding: leave it out.

    Args:
        features: The feature network.
        kernel: Whether to keep what the kernel distance needs (d^3 / 2 numbers); None: if d <= 128.
    """

    def __init__(self, features: Backbone, *, kernel: bool | None = None) -> None:
        self.features = features
        self._wants_kernel = kernel
        self.moments: Moments | None = None
        self.kernel_moments: KernelMoments | None = None

    @property
    def n(self) -> int:
        """Number of images seen."""
        return 0 if self.moments is None else self.moments.n

    def update(self, images: Tensor) -> Self:
        """Takes in images [B, C, H, W] in [-1, 1]; returns self."""
        rows = extract(self.features, [images])
        if self.moments is None:
            dim = rows.shape[1]
            self.moments = Moments(dim)
            if self._wants_kernel or (self._wants_kernel is None and dim <= MAX_DIM):
                self.kernel_moments = KernelMoments(dim)
        self.moments.update(rows)
        if self.kernel_moments is not None:
            self.kernel_moments.update(rows)
        return self

    def across_processes(self) -> "FeatureStream":
        """The stream that would have seen what all processes of torch.distributed saw; every process calls it."""
        if self.moments is None:
            raise ValueError("a process has seen no images: give every process at least one batch")
        total = FeatureStream(self.features, kernel=self._wants_kernel)
        total.moments = self.moments.across_processes()
        if self.kernel_moments is not None:
            total.kernel_moments = self.kernel_moments.across_processes()
        return total

    def distances(self, reference: "FeatureStream") -> dict[str, Any]:
        """frechet and kernel (None if it was not kept) to another stream, with n, n_reference and features."""
        if self.moments is None or reference.moments is None:
            raise ValueError("a stream has seen no images: call update first")
        kernel = None
        if self.kernel_moments is not None and reference.kernel_moments is not None:
            kernel = self.kernel_moments.distance(reference.kernel_moments)
        return {
            "frechet": frechet_between(Gaussian.of(self.moments), Gaussian.of(reference.moments)),
            "kernel": kernel,
            "n": self.n,
            "n_reference": reference.n,
            "features": self.features.name,
        }
