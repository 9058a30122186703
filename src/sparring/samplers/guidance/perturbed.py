"""Perturbed outputs: how errors of a network come out in its samples, as PFGM++ asks (Xu et al., arXiv 2302.04265).

Status: no gain of PFGM++ by it: errors of the network cost EDM as much on digits (docs/results/training.md).

Every output of the network gets noise of a share of its own size:

    output + delta rms(output) z,    z standard normal, new for each call; rms over the numbers of an image.

It makes samples worse, and is there to measure by how much. Paper: the question, and that heavy-tailed noise
(`pfgmpp`) bears errors better. Ours: this form of the errors. What it does depends on what the network predicts, so
networks of one kind are compared.
"""

from dataclasses import replace

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level, Predictor
from sparring.generators.predictor import Intervention


class Perturbed(Intervention):
    """Noise on every output of the network.

    Args:
        delta: its size, over that of the output; 0 is the plain sampler.
    """

    def __init__(self, *, delta: float = 0.2):
        if not delta >= 0:
            raise ValueError(f"`delta={delta}` must be 0 or more")
        self.delta = delta

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        def perturbed(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            plain = inner(x_t, level, condition)
            assert level.draws is not None
            output = plain.output
            rows = level.draws.count or len(output)  # guidance asks twice for each row of the walk
            z = level.draws.normal((rows, *output.shape[1:])).to(output).repeat(len(output) // rows, 1, 1, 1)
            return replace(plain, output=output + self.delta * rms(output) * z)

        return inner if self.delta == 0 else perturbed


def rms(x: Tensor) -> Tensor:
    """Root mean square of the numbers of each row, [B, 1, 1, ...]."""
    return x.square().flatten(1).mean(1).sqrt().view(-1, *[1] * (x.ndim - 1))
