"""How training times fall, with evenly spread random numbers in place of random ones."""

import math

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods import Diffusion
from sparring.process import EDM, VP, LogitNormal, LogNormal, RectifiedFlow, Uniform


class EvenDraws:
    """Numbers at the middle of n equally likely intervals: the distribution itself, without noise."""

    def uniform(self, shape):
        return (torch.arange(shape[0], dtype=torch.float64) + 0.5) / shape[0]

    def normal(self, shape):
        return torch.erfinv(2 * self.uniform(shape) - 1) * 2**0.5


class Still(torch.nn.Module):
    """A network that returns what it is shown."""

    def forward(self, x, time):
        return x


def test_uniform_takes_every_vp_level_equally_often():
    t = Uniform()(VP(num_timesteps=10), EvenDraws(), 1000)
    levels, counts = torch.unique(t, return_counts=True)
    torch.testing.assert_close(levels, torch.arange(1, 11).double() / 10)
    assert counts.tolist() == [100] * 10


def test_a_method_that_is_given_no_times_takes_those_of_its_process():
    """EDM: ln(sigma) ~ N(-1.2, 1.2), 2.3 % of it above sigma 3.3 (uniform in t it would be 47 %); else uniform in t."""
    t = EDM().default_times()(EDM(), EvenDraws(), 20000)
    log_sigma = EDM().sigma(t).log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.02)
    assert (log_sigma > math.log(3.3)).double().mean().item() == pytest.approx(0.023, abs=0.001)
    for process in (VP(num_timesteps=10), RectifiedFlow()):
        draws = process.default_times()(process, EvenDraws(), 1000)
        assert torch.equal(draws, Uniform()(process, EvenDraws(), 1000))
    torch.manual_seed(0)
    batch = Batch(torch.zeros(4000, 1, 1, 1), draws=Draws(0))
    sigma = EDM().sigma(Diffusion(Denoiser(Still(), EDM(), "edm")).rollout(batch).noised.t)
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.06)


def test_uniform_elsewhere():
    t = Uniform()(EDM(), EvenDraws(), 1000)
    assert t.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert t.std().item() == pytest.approx(12**-0.5, abs=1e-3)


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()])
def test_log_normal_has_its_mean_and_std(process):
    t = LogNormal(mean=-0.4, std=1.0)(process, EvenDraws(), 20000)
    log_ratio = -0.5 * process.log_snr(t)
    assert log_ratio.mean().item() == pytest.approx(-0.4, abs=0.01)
    assert log_ratio.std().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(process.snap(t), t)


def test_logit_normal_and_its_shift():
    flow = RectifiedFlow(shift=3.0)
    plain = LogitNormal(logit_mean=0.5, logit_std=0.8, shift=1.0)(flow, EvenDraws(), 20000)
    assert torch.logit(plain).mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.logit(plain).std().item() == pytest.approx(0.8, abs=0.01)
    shifted = LogitNormal(logit_mean=0.5, logit_std=0.8)(flow, EvenDraws(), 20000)  # the process's own shift
    expected = 3 * plain / (1 + 2 * plain)
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-3)


def test_times_stay_where_networks_are_trained():
    for times in (Uniform(), LogNormal(std=10.0), LogitNormal(logit_std=10.0)):
        for process in (VP(), EDM(), RectifiedFlow()):
            t = times(process, EvenDraws(), 500)
            assert t.shape == (500,)
            assert process.log_snr(t).isfinite().all()
            assert process.model_time(t).isfinite().all()


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="std=0"):
        LogNormal(std=0)
    with pytest.raises(ValueError, match="shift=0"):
        LogitNormal(shift=0)


def test_uniform_times_may_leave_out_both_ends():
    process = VP()
    t = Uniform(low=0.02, high=0.98)(process, Draws(0), 20_000)
    assert 0.02 < t.min() < 0.022
    assert 0.978 < t.max() <= 0.98
    assert t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(Uniform()(process, Draws(0), 50), process.time_from_uniform(Draws(0).uniform((50,))))
    for low, high in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(ValueError, match="low <"):
            Uniform(low=low, high=high)
