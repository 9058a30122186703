"""Nested chains: the spread of a mixture with and without noise inside, and what a step costs."""

import pytest
import torch
from cases import pair, sampled, white
from torch import nn

from sparring.generators import Denoiser
from sparring.process import VP
from sparring.samplers.speed.nested import Nested


class TwoModes(nn.Module):
    """The best network, predicting x_0, of 0.3 N(-2, 0.04) + 0.7 N(2, 0.04): mean 0.8, variance 3.40."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time):
        t = VP().t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        noisy, found, weights = alpha**2 * 0.04 + sigma**2, [], []
        for share, mean in ((0.3, -2.0), (0.7, 2.0)):
            weights.append(torch.log(torch.tensor(share)) - (x - alpha * mean).square() / (2 * noisy))
            found.append(mean + alpha * 0.04 * (x - alpha * mean) / noisy)
        inside = torch.stack(weights).softmax(0)
        return self.scale * (inside * torch.stack(found)).sum(0)


def drawn(n=20_000, outer=5, **settings):
    denoiser = Denoiser(TwoModes(), VP(), "x0")
    denoiser.check_shape((1, 1, 1))
    using = [Nested(**settings)]
    sampler = VP().scheduler("ddim", "x0")
    return denoiser.generate(sampler, outer, latents=white(n), using=using, batch_size=n)


@pytest.mark.parametrize("outer", [1, 2, 5])
def test_an_ancestral_inner_chain_keeps_the_spread_whatever_the_number_of_outer_steps(outer):
    """100 inner steps from pure noise; 20 000 numbers, of which two modes have a variance with standard error 0.02."""
    x = drawn(outer=outer, steps=100, eta=1.0)
    assert x.mean().item() == pytest.approx(0.8, abs=0.06)
    assert x.var().item() == pytest.approx(3.40, abs=0.12)


def test_an_inner_chain_with_hardly_any_noise_makes_the_spread_too_large():
    noisy, nearly_none = drawn(steps=20, eta=0.85), drawn(steps=20, eta=0.01)
    assert noisy.var().item() == pytest.approx(3.40, abs=0.15)
    assert nearly_none.var().item() > 3.7


def test_a_step_costs_as_many_calls_as_its_inner_chain_is_long():
    denoiser = pair()
    sampled(denoiser, "ddim", 4, using=[Nested(steps=8)])
    assert len(denoiser.net.rows_of_calls) == 8 + 6 + 4 + 2
    denoiser.net.rows_of_calls.clear()
    sampled(denoiser, "ddim", 25, using=[Nested(steps=25)])  # 25 * 0.28 is a little above 7 for a computer
    assert len(denoiser.net.rows_of_calls) == sum(range(26))


def test_every_step_shows_a_finished_image():
    """The clean estimate of the first step is no average of the modes."""
    denoiser = Denoiser(TwoModes(), VP(), "x0")
    denoiser.check_shape((1, 1, 1))
    x = denoiser.generate(VP().scheduler("ddim", "x0"), 1, latents=white(400), using=[Nested(steps=50)], batch_size=400)
    plain = denoiser.generate(VP().scheduler("ddim", "x0"), 1, latents=white(400), batch_size=400)
    assert (x.abs() - 2).abs().median() < 0.3
    assert (plain.abs() - 2).abs().median() > 0.8


def test_settings_that_cannot_be_are_refused():
    for settings in ({"steps": 0}, {"eta": 0.0}, {"eta": 1.5}):
        with pytest.raises(ValueError, match="without noise the inner chain is no sample of the clean image"):
            Nested(**settings)
