"""Improved DDPM: the best variance in closed form, the bound by hand, what the bound may teach, strided sampling."""

import math

import pytest
import torch
from scipy.stats import norm

from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser
from sparring.generators.start import MixtureStart
from sparring.methods.denoising.improved_ddpm import ImprovedDDPM
from sparring.process import EDM, VP, Assignment, StudentT
from sparring.process.bound import bound_term, log_of_bin, log_variances, prior_term

LINEAR = VP()


class TwoHeads(torch.nn.Module):
    """Outputs and variances from weights of their own."""

    def __init__(self):
        super().__init__()
        self.mean, self.variance = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, time):
        return torch.cat([self.mean(x), self.variance(x)], dim=1)


def times(level, n=1):
    return torch.full((n,), level / 1000, dtype=torch.float64)


def test_the_limits_of_the_variance_are_those_of_diffusers():
    scheduler = LINEAR.scheduler("ddpm", "eps")
    for level in (2, 10, 700):
        low, high = log_variances(LINEAR, times(level))
        assert high.item() == pytest.approx(math.log(scheduler.betas[level - 1]), abs=2e-3)  # of float32
        small = scheduler._get_variance(level - 1, variance_type="fixed_small")
        assert low.item() == pytest.approx(math.log(small), abs=2e-3)
    assert torch.equal(log_variances(LINEAR, times(1))[0], log_variances(LINEAR, times(2))[0])


@pytest.mark.parametrize(("level", "best"), [(2, 0.9991), (10, 0.9939), (100, 0.7623), (900, 0.2501)])
def test_the_best_fraction_on_gaussian_data_is_known(level, best):
    """Data N(0, 1/4): variance beta_t v_{t-1} / v_t. The bound is least there, by its mean over all x_0 and x_t."""
    n, s2 = 40000, 0.25
    draws = Draws(0)
    x_0 = 0.5 * draws.normal((n, 1, 1, 1)).double()
    t = times(level, n)
    alpha, sigma = LINEAR.alpha(times(level)), LINEAR.sigma(times(level))
    x_t = alpha * x_0 + sigma * draws.normal((n, 1, 1, 1)).double()
    x_0_pred = alpha * s2 * x_t / (alpha**2 * s2 + sigma**2)
    v = torch.tensor(2 * best - 1, dtype=torch.float64, requires_grad=True)
    loss = bound_term(LINEAR, x_0, x_t, t, x_0_pred, v.expand_as(x_0)).mean()
    (slope,) = torch.autograd.grad(loss, v, create_graph=True)
    (curve,) = torch.autograd.grad(slope, v)
    off = (slope / curve).item() / 2  # Newton's way to the least, in fractions
    assert curve > 0
    assert abs(off) < {2: 0.05, 10: 0.05, 100: 0.02, 900: 0.6}[level]


def test_a_term_of_the_bound_by_hand():
    """KL of two normal laws in bits; an exact prediction with the lower limit has none."""
    x_0, x_t = torch.full((1, 1, 1, 1), 0.3).double(), torch.full((1, 1, 1, 1), -0.2).double()
    t, s = times(400), times(399)
    exact = bound_term(LINEAR, x_0, x_t, t, x_0, torch.full_like(x_0, -1.0))
    assert exact.item() == pytest.approx(0, abs=1e-6)
    low, high = log_variances(LINEAR, t)
    mean, std = LINEAR.posterior(x_0, x_t, s, t)
    other, _ = LINEAR.posterior(torch.zeros_like(x_0), x_t, s, t)
    p = torch.distributions.Normal(other.double(), torch.exp(0.25 * (low + high)).view(1, 1, 1, 1))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean.double(), std.double()), p) / math.log(
        2
    )
    term = bound_term(LINEAR, x_0, x_t, t, torch.zeros_like(x_0), torch.zeros_like(x_0))
    assert term.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_bins_of_all_values_share_the_whole_mass():
    values = torch.linspace(-1, 1, 17, dtype=torch.float64)
    mean, log_std = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
    mass = log_of_bin(values, mean, log_std, 17).exp()
    assert mass.sum().item() == pytest.approx(1)
    std = math.exp(-1.5)
    assert mass[12].item() == pytest.approx(norm.cdf(0.5625, 0.4, std) - norm.cdf(0.4375, 0.4, std), rel=1e-6)


def test_the_bound_of_a_hybrid_teaches_the_variance_only_and_a_pure_one_both():
    for objective, taught in (("hybrid", False), ("bound", True)):
        net = TwoHeads()
        method = ImprovedDDPM(Denoiser(net, LINEAR, "v"), objective=objective)
        batch = Batch(Digits().images(16), draws=Draws(0))
        method.bound(method.generator, method.rollout(batch)).mean().backward()
        assert bool(net.mean.weight.grad.any()) == taught
        assert net.variance.weight.grad.abs().sum() > 0


def test_the_hybrid_is_the_error_and_a_thousandth_of_the_bound():
    method = ImprovedDDPM(Denoiser(TwoHeads(), LINEAR, "v"))
    step = method.rollout(Batch(Digits().images(16), draws=Draws(0)))
    noised = step.noised
    error = (step.prediction.output - method.generator.target(noised.x_0, noised.eps, noised.t)).square().mean()
    term = bound_term(LINEAR, noised.x_0, noised.x_t, noised.t, step.prediction.x0, step.prediction.variance).mean()
    loss = method.generator_loss(None, step)["hybrid"]
    assert loss.item() == pytest.approx((error + 0.001 * 1000 * term).item(), rel=1e-5)


def test_bits_of_held_out_images_are_finite_and_fall_with_a_better_network():
    method = ImprovedDDPM(Denoiser(TwoHeads(), LINEAR, "x0"), bins=17)
    with torch.no_grad():
        for parameter in method.generator.net.parameters():
            parameter.zero_()
        method.generator.net.mean.bias.fill_(1.0)
        poor = method.measures(method.generator, Digits(), Draws(0))["bits"]
        method.generator.net.mean.bias.fill_(-0.4)  # near the mean of all pixels
        better = method.measures(method.generator, Digits(), Draws(0))["bits"]
    assert 0 < better < poor
    assert prior_term(LINEAR, Digits().images(8)).max() < 1e-3


def test_ancestral_sampling_of_few_steps_takes_the_variance_of_the_network():
    denoiser = ImprovedDDPM(Denoiser(TwoHeads(), LINEAR, "v")).generator
    scheduler = denoiser.stepper("ddpm")
    assert scheduler.config.variance_type == "learned_range"
    latents, made = Draws(0).normal((4, 1, 8, 8)), []
    for bias in (-1.0, 1.0):
        torch.nn.init.zeros_(denoiser.net.variance.weight)
        torch.nn.init.constant_(denoiser.net.variance.bias, bias)
        made.append(denoiser.generate(scheduler, 4, latents=latents, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(*made)
    with pytest.raises(ValueError, match="`steps=1`: ancestral steps that end at the first level are 2 or more"):
        denoiser.plan(1, "ddpm")
    assert Denoiser(TwoHeads(), LINEAR, "v").stepper("ddpm").config.variance_type == "fixed_small"


@pytest.mark.parametrize("steps", [2, 4, 16])
def test_the_step_to_a_finished_image_adds_no_noise_whatever_the_variance(steps):
    denoiser = ImprovedDDPM(Denoiser(TwoHeads(), LINEAR, "x0")).generator
    for parameter in denoiser.net.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(denoiser.net.mean.bias, 0.3)
    torch.nn.init.constant_(denoiser.net.variance.bias, 3.0)  # beyond the larger of its limits
    latents = Draws(0).normal((4, 1, 8, 8))
    made = denoiser.generate(denoiser.stepper("ddpm"), steps, latents=latents, generator=torch.Generator())
    torch.testing.assert_close(made, torch.full_like(made, 0.3))


def test_what_cannot_work_is_said():
    with pytest.raises(ValueError, match="needs the levels of VP, not EDM"):
        ImprovedDDPM(Denoiser(TwoHeads(), EDM(), "edm"))
    for process in (VP(kernel=StudentT()), VP(coupling=Assignment())):
        with pytest.raises(
            ValueError, match="`method=ImprovedDDPM`: the bound is of Gaussian noise that is independent"
        ):
            ImprovedDDPM(Denoiser(TwoHeads(), process, "v"))
    with pytest.raises(ValueError, match="`denoiser.start`: the bound is of samples that begin from normal noise"):
        ImprovedDDPM(Denoiser(TwoHeads(), VP(last_time=0.5), "v", start=MixtureStart(2)))
    one = ImprovedDDPM(Denoiser(OneHead(), LINEAR, "v"))
    batch = Batch(torch.zeros(2, 1, 8, 8), draws=Draws(0))
    with pytest.raises(ValueError, match="gives no variance: build it with twice the channels"):
        one.generator_loss(batch, one.rollout(batch))


class OneHead(torch.nn.Module):
    def forward(self, x, time):
        return x
