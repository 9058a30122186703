"""The learned uncertainty of EDM2: its start, its best, trained and not shipped."""

import math

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.generators import Denoiser, Prediction
from sparring.methods import Diffusion
from sparring.process import EDM, AdaptiveTimes, Constant, EDMWeighting, RectifiedFlow, Uncertainty
from sparring.rollout import OneStep, denoising_error, noise_at
from sparring.training.players import trained_by

LAM = torch.tensor([-4.0, 0.0, 5.0])


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, time):
        return self.scale * x


def test_it_is_its_base_at_the_start():
    error = torch.tensor([0.5, 2.0, 0.1])
    assert torch.equal(Uncertainty().combine(error, LAM), EDMWeighting().combine(error, LAM))
    assert torch.equal(Uncertainty()(LAM), EDMWeighting()(LAM))


def test_at_its_best_it_is_the_log_of_the_mean_error_of_a_level():
    means = torch.tensor([0.2, 1.0, 7.0])
    learned = Uncertainty(weighting=Constant())
    optimiser = torch.optim.LBFGS(learned.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = learned.combine(means, LAM).sum()
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(learned.uncertainty(LAM).exp(), means, rtol=1e-2, atol=0)
    torch.testing.assert_close(learned.combine(means, LAM), 1 + means.log(), rtol=1e-2, atol=1e-2)


def test_a_method_trains_it_with_the_generator_and_does_not_ship_it():
    method = Diffusion(Denoiser(Scale(), EDM(), "edm"), weighting=Uncertainty())
    names = set(trained_by(method)["generator"])
    assert names == {"generator.net.scale", "weighting.linear.weight", "weighting.linear.bias"}
    batch = Batch(torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), draws=Draws(0))
    rollout = method.rollout(batch)
    loss = method.generator_loss(batch, rollout)["diffusion"]
    assert torch.equal(loss, denoising_error(method.generator, rollout, EDMWeighting()).mean())
    loss.backward()
    error = denoising_error(method.generator, rollout, EDMWeighting())
    assert method.weighting.linear.bias.grad.item() == pytest.approx((1 - error).mean().item(), rel=1e-4)
    assert not any("weighting" in name for name in method.generator.state_dict())
    assert math.isfinite(loss.item())
    with pytest.raises(ValueError, match="`width=0`"):
        Uncertainty(width=0)


def test_learned_times_follow_the_weighted_error_and_not_the_loss_which_may_be_negative():
    """Errors of x_0 are 0.01 in the cleaner half and 1 in the other; with u = -1 the losses are -0.97 and 1.72."""
    weighting, times = Uncertainty(weighting=Constant()), AdaptiveTimes(bins=2, floor=0.1)
    weighting.linear.bias.data -= 1
    denoiser = Denoiser(Scale(), RectifiedFlow(), "flow")
    for step in range(20):
        noised = noise_at(denoiser.process, Batch(torch.zeros(100, 1, 1, 1), draws=Draws(0, step=step)), times)
        off = torch.where(noised.t < 0.5, 0.1, 1.0) / noised.t  # of the flow, which is 1 / t that of x_0
        prediction = Prediction(noised.eps + off.view(-1, 1, 1, 1), noised.x_t, noised.t, "flow", denoiser.process)
        loss = denoising_error(denoiser, OneStep(noised, prediction), weighting)
        times.after_step()
    assert loss[noised.t < 0.5].max() < 0
    expected = torch.tensor([0.01, 1.0], dtype=torch.float64) / 1.01 * 0.9 + 0.05
    torch.testing.assert_close(times.probabilities(), expected, rtol=1e-3, atol=0)
