"""Levels that are drawn as often as losses say: the objective stays, its variance falls, parts make the whole."""

import math

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods import Diffusion
from sparring.methods.tuning.ddo import DDO
from sparring.process import (
    EDM,
    VP,
    AdaptiveTimes,
    EDMMonotone,
    EDMWeighting,
    LogitNormal,
    LogNormal,
    LossAware,
    MinSNR,
    Nearest,
    RectifiedFlow,
    Sigmoid,
    SNRPlusOne,
    StudentT,
    Uncertainty,
    Uniform,
    UniformLogSNR,
    elbo_weight,
    is_monotone,
)

LAM = torch.linspace(-8, 8, 401, dtype=torch.float64)
COSINE = VP(schedule="cosine")


class Even:
    """Numbers at the middle of equally likely cells of the square: for which bin, and for where in it."""

    first, step = 0, 0

    def __init__(self, n):
        side = math.isqrt(n)
        assert side * side == n
        self.cells = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        self.calls = 0

    def uniform(self, shape):
        self.calls += 1
        side = len(self.cells)
        return self.cells.repeat_interleave(side) if self.calls % 2 else self.cells.repeat(side)


def taught(times, process, loss_of_t, steps=40):
    """The times after losses that are a function of t."""
    for step in range(steps):
        drawn = times.draw(process, Draws(0, step=step), 400)
        drawn.balanced(loss_of_t(drawn.t))
        times.after_step()
    return times


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "base", [Uniform(), UniformLogSNR(), LogNormal(), LogitNormal()], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("kind", [AdaptiveTimes, LossAware])
def test_balanced_losses_have_the_mean_of_the_base_and_less_variance(kind, base, process):
    def loss(t):
        return torch.exp(-4 * t.double())

    times = taught(kind(base=base, bins=20), process, loss)
    p = times.probabilities()
    assert p.sum().item() == pytest.approx(1)
    assert p.max() > 2 * p.min()
    even = base.at(process, (torch.arange(40000, dtype=torch.float64) + 0.5) / 40000)
    drawn = times.draw(process, Even(40000), 40000)
    balanced = drawn.balanced(loss(drawn.t))
    assert balanced.mean().item() == pytest.approx(loss(even).mean().item(), rel=0.01)
    assert balanced.var() < 0.5 * loss(even).var()


def test_an_adaptive_bin_is_drawn_as_its_mean_loss_says_and_a_loss_aware_one_by_its_root_mean_square():
    def half(t):  # 3 in one half of the times, 1 and 7 in turns in the other
        seven = torch.arange(len(t)) % 2 * 6 + 1
        return torch.where(t > 0.5, torch.full_like(t, 3), seven.to(t))

    adaptive = taught(AdaptiveTimes(bins=2, floor=0.1), RectifiedFlow(), half)
    assert adaptive.probabilities()[1].item() == pytest.approx(0.9 * 3 / 7 + 0.05, abs=0.01)
    aware = taught(LossAware(bins=2, history=200, floor=0.001), RectifiedFlow(), half)
    expected = 3 / (3 + math.sqrt((1 + 49) / 2))
    assert aware.probabilities()[1].item() == pytest.approx(expected, abs=0.02)


def test_a_loss_aware_bin_keeps_its_last_losses():
    times = LossAware(bins=2, history=3)
    times.learn(torch.tensor([1, 0, 0, 0, 0, 1]), torch.tensor([10.0, 1.0, 2.0, 3.0, 4.0, 11.0]))
    assert sorted(times.losses[0].tolist()) == [2, 3, 4]
    assert times.strength() is None  # bin 1 has two
    times.learn(torch.tensor([1, 0, 1]), torch.tensor([12.0, 5.0, 13.0]))
    assert sorted(times.losses[0].tolist()) == [3, 4, 5]
    assert sorted(times.losses[1].tolist()) == [11, 12, 13]
    assert times.strength()[0].item() == pytest.approx(math.sqrt((9 + 16 + 25) / 3))


def test_as_many_bins_as_levels_are_the_levels():
    """LossAware on 1000 bins is the sampler of improved DDPM."""
    process = VP()
    drawn = LossAware(bins=1000).draw(process, Draws(0), 5000)
    assert torch.equal((drawn.t * 1000).round().long() - 1, drawn.bins)


@pytest.mark.parametrize("kind", [AdaptiveTimes, LossAware])
def test_micro_batches_in_any_order_teach_what_the_whole_batch_teaches(kind):
    whole, parts = kind(bins=4), kind(bins=4)
    for step in range(8):
        drawn = whole.draw(VP(), Draws(0, step=step, total=40, rows=slice(0, 40)), 40)
        drawn.balanced(drawn.t * 2)
        whole.after_step()
        for rows in (slice(24, 40), slice(0, 24)):
            part = parts.draw(VP(), Draws(0, step=step, total=40, rows=rows), rows.stop - rows.start)
            assert torch.equal(part.t, drawn.t[rows])
            part.balanced(part.t * 2)
        parts.after_step()
    assert whole.strength() is not None
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


def test_losses_of_a_step_that_was_not_taken_are_forgotten():
    times = AdaptiveTimes(bins=2)
    drawn = times.draw(VP(), Draws(0, step=0), 50)
    drawn.balanced(torch.full((50,), float("nan")))
    drawn = times.draw(VP(), Draws(0, step=1), 50)
    drawn.balanced(torch.ones(50))
    times.after_step()
    assert times.mean.tolist() == [1, 1]


@pytest.mark.parametrize("process", [COSINE, EDM(), RectifiedFlow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "times", [Uniform(), UniformLogSNR(), LogNormal(), LogitNormal(logit_mean=0.3)], ids=lambda t: type(t).__name__
)
def test_log_density_is_that_of_the_draws(times, process):
    """The integral of the density up to a quantile is its share."""
    grid = torch.linspace(-19, 19, 40001, dtype=torch.float64)
    low, high = process.log_snr(process.snap(torch.tensor([1.0, 0.0], dtype=torch.float64)))
    if isinstance(times, UniformLogSNR):
        low, high = times.ends(process)
    inside = (grid > low) & (grid < high)
    p = torch.where(inside, times.log_density(process, grid).exp(), 0)
    mass = p.cumsum(0) * (grid[1] - grid[0])
    for share in (0.1, 0.35, 0.6, 0.9):
        t = times.at(process, torch.tensor([share], dtype=torch.float64))
        below = mass[(grid <= process.log_snr(t)).sum() - 1].item()
        cut = 1 - mass[-1].item()  # what `snap` puts on the ends
        assert cut < 0.01
        assert min(abs(below - share), abs(below - (1 - share))) < 0.01


@pytest.mark.parametrize("process", [COSINE, RectifiedFlow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("times", [Uniform(low=0.2, high=0.6), UniformLogSNR(low=-3.0, high=2.0)])
def test_levels_that_are_never_drawn_have_no_density(times, process):
    grid = torch.linspace(-19, 19, 40001, dtype=torch.float64)
    p = times.log_density(process, grid).exp()
    assert (p.sum() * (grid[1] - grid[0])).item() == pytest.approx(1, abs=0.01)
    drawn = process.log_snr(times.at(process, torch.tensor([1e-4, 1 - 1e-4], dtype=torch.float64)))
    assert (grid[p > 0].aminmax().min - drawn.min()).abs() < 0.05
    assert (grid[p > 0].aminmax().max - drawn.max()).abs() < 0.05


def test_weights_over_log_snr_of_common_choices():
    """Closed forms on the cosine schedule, the flow and EDM; which of them are ELBOs."""
    eps = elbo_weight(COSINE, Uniform(), LAM.exp(), LAM)
    middle = LAM.abs() < 5  # outside, the schedule's offset at the clean end counts, and its levels are coarse
    torch.testing.assert_close(eps[middle], (1 / torch.cosh(LAM / 2) / (2 * math.pi))[middle], rtol=0.03, atol=0)
    assert not is_monotone(eps)
    v = elbo_weight(COSINE, Uniform(), LAM.exp() + 1, LAM)
    torch.testing.assert_close(v[middle], (torch.exp(-LAM / 2) / math.pi)[middle], rtol=0.03, atol=0)
    assert is_monotone(v)
    flow = RectifiedFlow()
    t = flow.t_from_log_snr(LAM)
    u = elbo_weight(flow, Uniform(), t**-2, LAM)
    torch.testing.assert_close(u, torch.exp(-LAM / 2) / 2, rtol=1e-3, atol=0)
    assert is_monotone(u)
    edm = elbo_weight(EDM(), LogNormal(), EDMWeighting()(LAM), LAM)
    expected = torch.exp(-((LAM - 2.4) ** 2) / (2 * 2.4**2)) * (1 + 4 * torch.exp(-LAM))
    torch.testing.assert_close(edm, expected / math.sqrt(2 * math.pi * 2.4**2), rtol=1e-6, atol=0)
    assert not is_monotone(edm)
    assert LAM[edm.argmax()].item() == pytest.approx(-3.3, abs=0.1)
    held = elbo_weight(EDM(), UniformLogSNR(), EDMMonotone()(LAM), LAM)
    right = LAM > -3.2
    torch.testing.assert_close(held[right] / held[0], (edm / edm.max())[right], rtol=1e-3, atol=0)
    assert is_monotone(held)
    assert (held[~right] / held[0]).min() > 0.99
    assert not is_monotone(elbo_weight(COSINE, Uniform(), MinSNR()(LAM), LAM))
    sigmoid = elbo_weight(COSINE, UniformLogSNR(), Sigmoid(bias=2)(LAM), LAM)
    torch.testing.assert_close(sigmoid / sigmoid[0], torch.sigmoid(2 - LAM) / torch.sigmoid(2 - LAM[0]))


def test_the_elbo_of_gaussian_data_is_the_mutual_information():
    """For N(0, s^2) the best eps error is sigmoid(lam + ln s^2), and its integral is ln (1+s^2 e^b)/(1+s^2 e^a)."""
    s2, process, times = 0.3, EDM(sigma_min=1e-3), UniformLogSNR(low=-6.0, high=5.0)
    lam = process.log_snr(times.at(process, (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000))
    nats = 0.5 * (torch.sigmoid(lam + math.log(s2)) / times.log_density(process, lam).exp()).mean()
    expected = 0.5 * math.log((1 + s2 * math.exp(5)) / (1 + s2 * math.exp(-6)))
    assert nats.item() == pytest.approx(expected, rel=1e-5)


class Still(torch.nn.Module):
    def forward(self, x, time):
        return x


def test_a_loss_that_is_no_elbo_is_refused_if_a_likelihood_is_wanted():
    eps, v = Denoiser(Still(), VP(), "eps"), Denoiser(Still(), COSINE, "v")
    Diffusion(v, likelihood=True)
    Diffusion(v, likelihood=True, times=AdaptiveTimes(base=UniformLogSNR()), weighting=Sigmoid())
    with pytest.raises(ValueError, match="`weighting=None` and `times=Uniform` the weight over log-SNR rises up to"):
        Diffusion(eps, likelihood=True)
    with pytest.raises(ValueError, match="`weighting=MinSNR` and `times=UniformLogSNR`"):
        Diffusion(v, likelihood=True, times=UniformLogSNR(), weighting=Late())
    with pytest.raises(ValueError, match="`times=Uniform` the weight over log-SNR rises"):
        Diffusion(v, likelihood=True, times=Uniform(high=0.5))  # which leaves the noisy levels out
    Diffusion(v, likelihood=True, times=Uniform(low=0.5))
    with pytest.raises(ValueError, match="`weighting=Uncertainty` is learned"):
        Diffusion(v, likelihood=True, weighting=Uncertainty(weighting=SNRPlusOne()))
    for process in (VP(schedule="cosine", kernel=StudentT()), VP(schedule="cosine", coupling=Nearest())):
        with pytest.raises(ValueError, match="`likelihood=true`: the bound is of Gaussian noise that is independent"):
            Diffusion(Denoiser(Still(), process, "v"), likelihood=True)


class Late(MinSNR):
    """Its weight on eps has a peak at SNR 5."""

    def __call__(self, log_snr):
        return super().__call__(log_snr) * log_snr.exp()


Late.__name__ = "MinSNR"


def test_methods_that_do_not_balance_refuse_learned_times():
    with pytest.raises(ValueError, match="`times=AdaptiveTimes`: this method does not balance"):
        AdaptiveTimes()(VP(), Draws(0), 4)
    net = Denoiser(Still(), VP(), "v")
    method = DDO(net, times=AdaptiveTimes())
    with pytest.raises(ValueError, match="does not balance"):
        method.logit(Batch(torch.zeros(2, 1, 1, 1), draws=Draws(0)))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="`bins=1`"):
        AdaptiveTimes(bins=1)
    with pytest.raises(ValueError, match="`base=AdaptiveTimes` cannot be cut into bins"):
        LossAware(base=AdaptiveTimes())
    with pytest.raises(ValueError, match="`at_zero=none`"):
        MinSNR(at_zero="none")
    with pytest.raises(ValueError, match=r"`low=50`, `high=60`: VP has log-SNR"):
        UniformLogSNR(low=50, high=60).at(VP(), torch.rand(2))


def test_min_snr_at_zero_is_a_choice():
    process = VP(schedule="cosine", zero_terminal_snr=True)
    log_snr = process.log_snr(torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert MinSNR()(log_snr)[1] < 1e-6
    assert MinSNR(at_zero="one")(log_snr)[1] == 1
    assert MinSNR(at_zero="one")(log_snr)[0] == MinSNR()(log_snr)[0]
