"""A denoiser's own image, and one step of its sampler from it."""

import pytest
import torch
from rollout_parts import Tiny
from torch import nn

from sparring.generators import Denoiser
from sparring.process import EDM, VP, RectifiedFlow
from sparring.rollout import own_image, step_from_image

SHAPE = (3, 1, 4, 4)
CASES = {"v": (VP(), "v", "ddim"), "flow": (RectifiedFlow(), "flow", "euler"), "edm": (EDM(), "edm", "heun")}


def normal(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_that_of_the_sampler(case):
    process, kind, name = CASES[case]
    denoiser = Denoiser(Tiny(), process, kind)
    image = own_image(denoiser, process.scheduler(name, kind), 4, normal(0), None)
    assert torch.equal(image, denoiser.generate(process.scheduler(name, kind), 4, latents=normal(0)))
    assert not image.requires_grad


class Velocity(nn.Module):
    """Predicts this."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x, time):
        return self.value


def test_of_a_flow_the_image_moves_by_k_times_the_error_of_the_velocity():
    """k = (s - t) / (1 - s); of 28 uniform steps 1.0 at t = 1, 0.067 at 0.5 and 0.038 at 0.1 (in size)."""
    x_0, eps = normal(0), normal(1)
    for t, size in ((1.0, 1.0), (0.5, 0.067), (0.1, 0.038)):
        s = t - 1 / 28
        off = Denoiser(Velocity(eps - x_0 + 0.3), RectifiedFlow(), "flow")
        times = torch.full((3,), t, dtype=torch.float64), torch.full((3,), s, dtype=torch.float64)
        moved = step_from_image(off, x_0, eps, *times, None)
        k = (s - t) / (1 - s)
        assert abs(k) == pytest.approx(size, abs=2e-3)
        torch.testing.assert_close(moved - x_0, torch.full(SHAPE, 0.3 * k).double(), rtol=1e-6, atol=1e-9)
        (slope,) = torch.autograd.grad(moved.sum(), off.net.value)
        torch.testing.assert_close(slope, torch.full(SHAPE, k).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_right_prediction_leaves_the_image_where_it_is(case):
    process, kind, _ = CASES[case]
    x_0, eps = normal(0), normal(1)
    t, s = torch.tensor([0.9, 0.5, 0.2]).double(), torch.tensor([0.8, 0.3, 0.1]).double()
    right = Denoiser(Velocity(torch.zeros(SHAPE).double()), process, kind)
    right.net.value.data = right.target(x_0, eps, t)
    torch.testing.assert_close(step_from_image(right, x_0, eps, t, s, None), x_0, rtol=1e-6, atol=1e-8)
