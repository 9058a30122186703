"""What the tests of the few-step students share: Gaussian data, for which all of them are known."""

import torch
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import Views
from sparring.generators import Denoiser
from sparring.process import Times

STD = 0.6
"""Deviation of the data."""


class Formula(Denoiser):
    """A denoiser of one weight, whose output is weight * formula(x, t, length) for data N(0, STD^2)."""

    def __init__(self, process, prediction, formula):
        super().__init__(Weight(), process, prediction)
        self.formula = formula
        self.time_slot = nn.Identity()  # it takes the length of a step

    def network(self, x_in, model_time, condition=None, z=None, length=None, *, variance=False):
        t = self.process.t_from_model_time(model_time.double())
        length = torch.zeros_like(t) if length is None else length.double()
        scale = self.formula(self.process.alpha, self.process.sigma, t, length)
        return self.net.weight * scale.view(-1, 1, 1, 1) * x_in


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time):
        raise AssertionError("the formula is asked")


def mean(alpha, sigma, t, length):
    """The mean clean image, as a multiple of x_t."""
    return STD**2 * alpha(t) / ((STD * alpha(t)).square() + sigma(t).square())


def end(alpha, sigma, t, length):
    """The clean end of the ODE's path."""
    return STD * ((STD * alpha(t)).square() + sigma(t).square()).rsqrt()


class At(Times):
    """Every row at one time."""

    def __init__(self, t):
        self.t = t

    def __call__(self, process, draws, n):
        return torch.full((n,), self.t, dtype=torch.float64)


def fakes_shown(method):
    """The noised images and the fakes of each view that a student will show its discriminator, which then sees none."""
    shown = []
    method.views = lambda discriminator, batch, noised, image: shown.append((noised, image)) or Views()
    return shown


def gaussian_batch(n=200, phase="rollout"):
    random = torch.Generator().manual_seed(0)
    return Batch(STD * torch.randn(n, 1, 2, 2, generator=random, dtype=torch.float64), draws=Draws(0, phase=phase))


def slope(y, x):
    """Of y regressed on x."""
    return ((x * y).mean() / x.square().mean()).item()
