"""What a network's output means: eps, x0, v, flow and EDM's target as mixes of the clean image and the noise.

Every prediction type is a fixed mix of the two things in x_t = alpha x_0 + sigma eps:

    output = a x_0 + b eps      eps: 0, 1    x0: 1, 0    v: -sigma, alpha    flow: -1, 1    edm: see `mix`

so x_0 and eps follow by solving two linear equations, for every type and every process, in this file only.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring.process import EDM, Kind, Process, per_image

SMALLEST = 1e-5  # alpha (type eps) and sigma (type x0) are held above this where they divide


def mix(kind: Kind, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) with output = a x_0 + b eps, each of t's shape.

    edm: output = (x_0 - c_skip x_t) / c_out with EDM's c_skip = sd^2 / (sigma^2 + sd^2) and
    c_out = sigma sd / sqrt(sigma^2 + sd^2), so a = sigma / (sd sqrt(sigma^2 + sd^2)), b = -sd / sqrt(sigma^2 + sd^2).
    """
    sigma = process.sigma(t)
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    if kind == "eps":
        return zero, one
    if kind == "x0":
        return one, zero
    if kind == "v":
        return -sigma, process.alpha(t)
    if kind == "flow":
        return -one, one
    assert isinstance(process, EDM)
    scale = (sigma.square() + process.sigma_data**2).rsqrt()
    return scale * sigma / process.sigma_data, -scale * process.sigma_data


def determinant(kind: Kind, process: Process, t: Tensor) -> Tensor:
    """alpha b - sigma a, held away from 0: alpha for eps, -sigma for x0, never near 0 for the others."""
    a, b = mix(kind, process, t)
    determinant = process.alpha(t) * b - process.sigma(t) * a
    return torch.where(determinant < 0, determinant.clamp(max=-SMALLEST), determinant.clamp(min=SMALLEST))


@dataclass(eq=False)
class Prediction:
    """A network's output with what is needed to read it: `.x0`, `.eps`, `.v`, `.flow` (all [B, ...], at least float32).

    v is alpha eps - sigma x_0 and flow is eps - x_0, for every process. What the network predicts itself is its output,
    unchanged. Dividing by alpha (x0 of an eps network) and by sigma (eps of an x0 network) stops at 1e-5.

    Args:
        output: raw output of the network, [B, C, H, W].
        x_t: the noisy images it saw, before the process scaled them.
        t: their times, [B].
        kind: what `output` means.
        process: the noising process.
        variance: what a network with a learned variance says of it, [B, C, H, W], as its scheduler takes it.
    """

    output: Tensor
    x_t: Tensor
    t: Tensor
    kind: Kind
    process: Process
    variance: Tensor | None = None

    @cached_property
    def x0(self) -> Tensor:
        """The clean image."""
        if self.kind == "x0":
            return self.output
        return self._solve(mix(self.kind, self.process, self.t)[1], -self.process.sigma(self.t))

    @cached_property
    def eps(self) -> Tensor:
        """The noise."""
        if self.kind == "eps":
            return self.output
        return self._solve(-mix(self.kind, self.process, self.t)[0], self.process.alpha(self.t))

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x_0."""
        return self.to("v")

    @property
    def flow(self) -> Tensor:
        """eps - x_0: the velocity of the rectified flow."""
        return self.to("flow")

    def shifted(self, x0: Tensor) -> "Prediction":
        """The prediction whose clean image is further by `x0` [B, C, H, W]; of the same kind, without a round trip.

        At a fixed x_t: d output / d x_0 = a - b alpha / sigma, and d eps / d x_0 = -alpha / sigma.
        """
        slope = -determinant(self.kind, self.process, self.t) / self.process.sigma(self.t).clamp(min=SMALLEST)
        return replace(self, output=self.output + per_image(slope, x0) * x0)

    def rows(self, rows: slice) -> "Prediction":
        """Some of the rows."""
        variance = None if self.variance is None else self.variance[rows]
        return replace(self, output=self.output[rows], x_t=self.x_t[rows], t=self.t[rows], variance=variance)

    def _solve(self, of_x_t: Tensor, of_output: Tensor) -> Tensor:
        scale = determinant(self.kind, self.process, self.t)
        x_t, output = self.x_t, self.output
        return per_image(of_x_t / scale, x_t) * x_t + per_image(of_output / scale, output) * output

    def to(self, kind: Kind) -> Tensor:
        """The output that a network of another kind would have given."""
        if self.kind == kind:
            return self.output
        a, b = mix(kind, self.process, self.t)
        return per_image(a, self.x0) * self.x0 + per_image(b, self.eps) * self.eps
