"""A network that knows the answer for two Gaussians, one of them a class: what guided samplers are tested on."""

import math

import torch
from torch import Tensor, nn

from sparring.process import EDM, Kind, Process


class GaussianPair(nn.Module):
    """The optimal network, in float64, of numbers as images [B, 1, H, W]: class 0 is N(1, `variance`), 1 says "none".

    Pixels are independent. Without a class the data is N(0, 1), of which class 0 is a part as far as guidance is
    concerned: guided with weight w, the score is (1 - w) that of N(0, 1) + w that of N(1, 1/4). For w = 2 the
    probability-flow ODE ends at mean 1.3801 and variance 1/16, DDPM of many steps at 1.25 and 0.1094, and the tilted
    density p^(1 - w) p(.|y)^w, which neither of them samples, has 8/7 and 1/7.
    """

    mean: Tensor
    variance: Tensor
    num_classes = 2
    ODE, DDPM, TILTED = (1.3801, 0.0625), (1.25, 0.1094), (8 / 7, 1 / 7)

    def __init__(self, process: Process, kind: Kind, mean: float = 1.0, variance: float = 0.25) -> None:
        super().__init__()
        self.process, self.kind = process, kind
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("variance", torch.tensor(variance, dtype=torch.float64))
        self.rows_of_calls: list[int] = []
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.rows_of_calls.append(len(x))
        t = self.process.t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if isinstance(self.process, EDM):
            x = x * (sigma**2 + self.process.sigma_data**2) ** 0.5
        told = (labels == 0).double()[:, None, None, None]
        mean, variance = self.mean * told, 1 + (self.variance - 1) * told
        eps = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        x_0 = mean + alpha * variance * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        if self.kind == "edm":
            assert isinstance(self.process, EDM)
            spread = self.process.sigma_data**2 + sigma**2
            return (x_0 - self.process.sigma_data**2 / spread * x) / (sigma * self.process.sigma_data / spread**0.5)
        return {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0}[self.kind]


class Ratio(nn.Module):
    """What guides N(0, 1) to N(1, 1/4) exactly: logits of class 0 (prior 0.2) and of the rest, or log p(.|0) / p.

    Args:
        process: of the noise.
        classes: 2 for the logits of a classifier, 1 for the logit of a discriminator.
    """

    def __init__(self, process: Process, classes: int = 2) -> None:
        super().__init__()
        self.process, self.classes = process, classes
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.process.t_from_model_time(time.double())[:, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        x = x.flatten(1)
        if isinstance(self.process, EDM):
            x = x * (sigma**2 + self.process.sigma_data**2) ** 0.5
        logs = []
        for mean, variance in ((1.0, 0.25), (0.0, 1.0)):
            noisy = alpha**2 * variance + sigma**2
            logs.append((-0.5 * (x - alpha * mean).square() / noisy - 0.5 * noisy.log()).sum(1))
        ratio = logs[0] - logs[1]
        if self.classes == 1:
            return ratio[:, None]
        inside = ratio + math.log(0.2)
        return torch.stack([inside, torch.log(-torch.expm1(inside))], dim=1)
