"""What the tests of students of two scores share: Gaussians whose scores are known, and students that are lines."""

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.process import RectifiedFlow


class Gaussian(nn.Module):
    """The optimal velocity of a rectified flow for data N(mean, std^2), which can be learned."""

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(std, dtype=torch.float64).log())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = (time.double() / 1000)[:, None, None, None]
        variance = (2 * self.log_std).exp()
        x_0 = self.mean + (1 - t) * variance * (x - (1 - t) * self.mean) / ((1 - t) ** 2 * variance + t**2)
        return (x - x_0) / t.clamp(min=1e-6)


class Line(nn.Module):
    """The velocity at t = 1 that takes noise z to a z + b in one call."""

    def __init__(self, a: float = 1.0, b: float = 0.0):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x - (self.a * x + self.b)


def flow(net: nn.Module) -> Denoiser:
    return Denoiser(net, RectifiedFlow(), "flow")


def student(kind, line=(1.0, 0.0), data=(0.0, 1.0), fakes=None, **settings):
    """A method whose student is a line, with the exact scores of the data and of the fakes, by mean and std."""
    method = kind(flow(Line(*line)), **settings)
    method.teacher = flow(Gaussian(*data)).requires_grad_(False)
    method.discriminator.denoiser = flow(Gaussian(*(fakes or (line[1], line[0]))))
    method.steps = 1
    return method


def points(n: int, phase: str = "rollout", step: int = 0, mean: float = 0.0, std: float = 1.0) -> Batch:
    real = mean + std * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase, step=step))


def train(method, steps: int, rates: tuple[float, float], n: int = 256, updates: int = 1) -> tuple[float, float]:
    """Trains both players as the trainer does, the discriminator `updates` times a step; the line's numbers."""
    players = [(method.discriminator, rates[0]), (method.generator, rates[1])]
    optimizers = [torch.optim.Adam(part.parameters(), rate, betas=(0.0, 0.99)) for part, rate in players]
    turns = [(optimizers[0], method.discriminator_loss)] * updates + [(optimizers[1], method.generator_loss)]
    for method.step in range(steps):
        for turn, (optimizer, losses_of) in enumerate(turns):
            rollout = method.rollout(points(n, f"rollout {turn}", method.step))
            optimizer.zero_grad()
            losses = losses_of(points(n, f"losses {turn}", method.step), rollout)
            sum(losses.values()).backward(inputs=optimizer.param_groups[0]["params"])
            optimizer.step()
    return method.generator.net.a.item(), method.generator.net.b.item()
