"""The calls of a few-step student on its own states: the sampler's own walk, and the derivatives of its calls."""

import pytest
import torch
from diffusers import LCMScheduler
from diffusers.schedulers import scheduling_lcm
from rollout_parts import Tiny
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.process import EDM, VP, RectifiedFlow, set_timesteps
from sparring.rollout import own_calls

CASES = {
    "v, lcm": (VP(schedule="cosine"), "v", "lcm"),
    "eps, lcm": (VP(), "eps", "lcm"),
    "v, ddim": (VP(schedule="cosine"), "v", "ddim"),
    "flow": (RectifiedFlow(), "flow", "ddim"),
    "edm": (EDM(), "edm", "ddim"),
}
SHAPE = (3, 1, 4, 4)


def batch():
    return Batch(torch.zeros(SHAPE, dtype=torch.float64), draws=Draws(0))


def on_grid(process, name, kind, num_calls):
    scheduler = process.scheduler(name, kind)
    set_timesteps(scheduler, num_calls)
    return scheduler


@pytest.mark.parametrize("case", CASES)
def test_the_last_call_is_the_image_of_the_sampler(case, monkeypatch):
    """With the same noise on its way; float32 times, and LCM's c_skip, leave 1e-3."""
    process, kind, name = CASES[case]
    denoiser = Denoiser(Tiny(), process, kind)
    calls = own_calls(denoiser, batch(), on_grid(process, name, kind, 3))
    assert len(calls) == 3
    draws = Draws(0)
    latents, *further = [draws.normal(SHAPE).double() for _ in range(3)]
    noise = iter(further)
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(noise))
    sampled = denoiser.generate(process.scheduler(name, kind), 3, latents=latents)
    torch.testing.assert_close(calls[-1].x_0.detach(), sampled.double(), rtol=2e-3, atol=2e-3)


class OneNumberEach(nn.Module):
    """Call i predicts the number i of its parameter, whatever it sees."""

    def __init__(self, calls=4):
        super().__init__()
        self.value, self.call = nn.Parameter(torch.zeros(calls, dtype=torch.float64)), 0

    def forward(self, x, time):
        self.call += 1
        return x * 0 + self.value[self.call - 1]


def derivatives(kind, scheduler, process, **settings):
    denoiser = Denoiser(OneNumberEach(), process, kind)
    calls = own_calls(denoiser, Batch(torch.zeros(1, 1, 1, 1).double(), draws=Draws(0)), scheduler, **settings)
    calls[-1].x_0.sum().backward()
    return denoiser.net.value.grad


def lcm_of_a_flow():
    scheduler = LCMScheduler()
    scheduler.timesteps = torch.tensor([1000, 750, 500, 250])
    return scheduler


def test_the_derivatives_of_a_flows_calls():
    """LCM: -t_i prod_{j>i} (1 - t_j). Euler: t_{i+1} - t_i."""
    flow = RectifiedFlow()
    lcm = derivatives("flow", lcm_of_a_flow(), flow)
    torch.testing.assert_close(lcm, torch.tensor([-0.09375, -0.28125, -0.375, -0.25]).double(), rtol=1e-5, atol=1e-6)
    euler = derivatives("flow", on_grid(flow, "ddim", "flow", 4), flow)
    torch.testing.assert_close(euler, torch.full((4,), -0.25).double(), rtol=1e-5, atol=1e-6)


def test_by_lcm_a_network_of_images_learns_from_its_last_call_and_otherwise_from_those_that_carry():
    flow = RectifiedFlow()
    last = derivatives("x0", lcm_of_a_flow(), flow)
    assert last[3] == pytest.approx(1)
    assert last[:3].abs().max() == 0
    two = derivatives("flow", lcm_of_a_flow(), flow, grad_calls=2)
    torch.testing.assert_close(two, torch.tensor([0, 0, -0.375, -0.25]).double(), rtol=1e-5, atol=1e-6)
    one = derivatives("flow", lcm_of_a_flow(), flow, stop=True)
    torch.testing.assert_close(one, torch.tensor([0, 0, 0, -0.25]).double(), rtol=1e-5, atol=1e-6)
    first = derivatives("flow", lcm_of_a_flow(), flow, num_calls=1)
    torch.testing.assert_close(first, torch.tensor([-1.0, 0, 0, 0]).double(), rtol=1e-5, atol=1e-6)


def test_a_network_that_looks_at_its_input_is_not_differentiated_in_it():
    """Its slope of 3 in what it sees would enter the products of the calls behind it."""

    class Looks(OneNumberEach):
        def forward(self, x, time):
            return super().forward(x, time) + 3 * x

    denoiser = Denoiser(Looks(), RectifiedFlow(), "flow")
    one = Batch(torch.zeros(1, 1, 1, 1).double(), draws=Draws(0))
    own_calls(denoiser, one, lcm_of_a_flow())[-1].x_0.sum().backward()
    expected = torch.tensor([-0.09375, -0.28125, -0.375, -0.25]).double()
    torch.testing.assert_close(denoiser.net.value.grad, expected, rtol=1e-5, atol=1e-6)
