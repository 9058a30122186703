"""Any denoiser in TrigFlow's coordinates, and how its clean image changes along a path there (sCM, rCM).

    x = cos a x_0 + sin a z,        z = s eps,        tan a = sigma / (s alpha),        s the deviation of the data

The network's output is F there: s F is its dx/da, and f = cos a x - sin a s F its clean image.

Training moves f at a by -df/da, as wind carries smoke, from the clean end towards noise. Of such an equation only the
difference against the wind is stable, to the cleaner side. A central one lets waves of its own length in t grow.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.networks.modes import same_dropout
from sparring.process import Process, per_image
from sparring.rollout.along_path import clean_image_along
from sparring.rollout.one_step import Noised

Derivative = Literal["forward", "reverse", "difference"]
LEAST = 0.1  # of the size of a tangent by which it is divided


@dataclass
class Along:
    """A student on a path, [B, C, H, W] and, for the angle, [B, 1, 1, 1].

    Attributes:
        output: F, with its graph.
        image: f, the clean image, with its graph.
        missing: what the path's dx/da has over s F; without a graph, as all that follows.
        slope: df/da along the path.
        cos, sin: of the angle a.
        log_snr: [B] of the levels.
    """

    output: Tensor
    image: Tensor
    missing: Tensor
    slope: Tensor
    cos: Tensor
    sin: Tensor
    log_snr: Tensor


class TrigFlow:
    """The coordinates for a process and data of a deviation.

    Args:
        process: of the denoiser.
        data_std: s.
        derivative: how df/da is computed: by a "difference" to a cleaner level, or exactly in "forward" or "reverse"
            mode.
        interval: of the difference, in the process's time.

    Raises:
        ValueError: a deviation or an interval out of range.
    """

    def __init__(self, process: Process, *, data_std: float, derivative: Derivative, interval: float):
        if data_std <= 0 or not 0 < interval < 0.5:
            raise ValueError(f"`data_std={data_std}` must be above 0, and `interval={interval}` lie in (0, 0.5)")
        self.process = process
        self.data_std, self.derivative, self.interval = data_std, derivative, interval

    def tan(self, log_snr: Tensor) -> Tensor:
        """tan a = sigma / (s alpha) [B]."""
        return torch.exp(-0.5 * log_snr) / self.data_std

    def angle(self, t: Tensor) -> Tensor:
        """a [B] in (0, pi/2) of the process's times t [B]."""
        return torch.atan(self.tan(self.process.log_snr(t)))

    def along(self, student: Denoiser, batch: Batch, noised: Noised, x_0: Tensor, eps: Tensor) -> Along:
        """The student on the paths through noised.x_t, which lead from images x_0 to noise eps, [B, C, H, W].

        All passes through the network have the same mask of dropout.
        """
        process, x_t, t, condition = self.process, noised.x_t, noised.t, batch.condition
        angle = self.angle(t)
        with torch.no_grad(), same_dropout(x_t):
            if self.derivative == "difference":
                s = (t - self.interval).clamp(min=0)
                before = student(process.add_noise(x_0, eps, s), s, condition).x0
            else:
                velocity = process.velocity(x_0, eps, t)
                _, exact = clean_image_along(student, x_t, t, velocity, condition, mode=self.derivative)
        made = student(x_t, t, condition)
        if self.derivative == "difference":
            slope = (made.x0.detach() - before) / per_image(angle - self.angle(s), x_t)
        else:
            slope = exact / per_image(process.rate(self.angle, t), x_t)
        cos, sin = (per_image(function(angle), x_t) for function in (torch.cos, torch.sin))
        output = (cos * self.data_std * made.eps - sin * made.x0) / self.data_std
        missing = cos * self.data_std * eps - sin * x_0 - self.data_std * output.detach()
        return Along(output, made.x0, missing, slope, cos, sin, process.log_snr(t))


def moved(output: Tensor, tangent: Tensor) -> Tensor:
    """Where F is pulled to: `sg F + g / (rms(g) + 0.1)` [B, C, H, W], the root mean square of each row."""
    size = tangent.square().flatten(1).mean(1).sqrt()
    return output.detach() + tangent / per_image(size + LEAST, tangent)
