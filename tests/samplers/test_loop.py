"""Samples from noise, one-step predictions, posterior steps and few-step students."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from rollout_parts import PATHS, Gaussian, Tiny, batch_of
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.process import EDM, VP, LogNormal, RectifiedFlow, Uniform
from sparring.rollout import few_step, one_step, posterior_step, simulate

# -- samples from noise ------------------------------------------------------------------------------------------------


def white(n, d, seed=0):
    """Latents [n, 1, 1, d] whose sample mean is exactly 0 and whose covariance is exactly the identity."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return (x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T).reshape(n, 1, 1, d)


@pytest.mark.parametrize("name", PATHS)
def test_the_exact_denoiser_of_a_gaussian_gives_its_mean_and_covariance(name):
    """The sampler is affine in the latents, whose moments are exact here: what is left is the solver's own error."""
    process, kind, scheduler_name = PATHS[name]
    mean, variance = torch.tensor([0.3, -0.5, 0.1]).double(), torch.tensor([0.5, 0.3, 0.1]).double()
    denoiser = Denoiser(Gaussian(process, kind, mean, variance), process, kind)
    x = denoiser.generate(process.scheduler(scheduler_name, kind), 100, latents=white(50, 3)).flatten(1)
    assert x.dtype == torch.float64
    tolerance = 0.006 if scheduler_name in ("dpm", "heun", "unipc") else 0.03
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(x.T.cov(correction=0), variance.diag(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scheduler_name", ["ddim", "dpm", "unipc", "euler", "heun"])
def test_splitting_the_batch_changes_nothing_for_a_deterministic_sampler(scheduler_name):
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler(scheduler_name, "v")
    latents = torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = denoiser.generate(scheduler, 5, latents=latents)
    split = denoiser.generate(scheduler, 5, latents=latents, batch_size=4)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-6 if scheduler_name != "ddim" else 1e-12)
    assert not whole.requires_grad


def test_the_path_can_be_watched_from_the_latents_to_the_image():
    denoiser, states = Denoiser(Tiny(), VP(), "v"), []
    latents = batch_of(3).images
    image = denoiser.generate(VP().scheduler("heun", "v"), 4, latents=latents, batch_size=2, watch=states.append)
    assert [len(state) for state in states] == [2] * 8 + [1] * 8  # before the first call and after each of seven
    assert torch.equal(states[0], latents[:2] * VP().scheduler("heun", "v").init_noise_sigma)
    assert torch.equal(torch.cat([states[7], states[15]]), image)


@pytest.mark.parametrize(("pipeline", "scheduler_name"), [(DDPMPipeline, "ddpm"), (DDIMPipeline, "ddim")])
def test_it_samples_what_the_pipelines_of_diffusers_sample(pipeline, scheduler_name):
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
    denoiser, scheduler = Denoiser(net, VP(), "v"), VP().scheduler(scheduler_name, "v")
    pipe = pipeline(net.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    expected = pipe(batch_size=5, generator=generator, num_inference_steps=4, output_type="np").images
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(5, 1, 8, 8, generator=generator)
    x = denoiser.generate(scheduler, 4, latents=latents, generator=generator)
    x = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    torch.testing.assert_close(torch.from_numpy(x), torch.from_numpy(expected), rtol=0, atol=1e-6)


class NeedsClasses(nn.Module):
    """Output = class number everywhere; drops out in training mode."""

    num_classes = 5

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time, labels):
        assert not self.training or torch.is_grad_enabled()
        return self.scale * labels.to(x.dtype).view(-1, 1, 1, 1).expand_as(x)


def test_classes_reach_the_network_in_every_rollout():
    labels = torch.tensor([0, 4, 2])
    denoiser = Denoiser(NeedsClasses(), VP(), "x0")
    expected = labels.double().view(3, 1, 1, 1).expand(3, 1, 4, 4)
    levels = torch.tensor([0.0, 0.5, 1.0])
    for x_0 in (
        one_step(denoiser, batch_of(labels=labels), Uniform()).prediction.x0,
        few_step(denoiser, batch_of(labels=labels), levels[1:]).prediction.x0,
        posterior_step(denoiser, batch_of(labels=labels), levels).prediction.x0,
        simulate(denoiser, batch_of(labels=labels), VP().scheduler("ddim", "x0"), num_steps=4),
        denoiser.generate(VP().scheduler("ddim", "x0"), 4, latents=batch_of().images, condition=labels, batch_size=2),
    ):
        torch.testing.assert_close(x_0.detach(), expected)
    assert denoiser.training  # and `generate` ran in eval mode, see the network


# -- one step, a posterior step, a few-step student --------------------------------------------------------------------


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (EDM(), "edm"), (RectifiedFlow(), "flow")])
def test_one_step_noises_the_batch_and_keeps_float64(process, kind):
    denoiser, batch = Denoiser(Tiny(), process, kind), batch_of(8)
    fake = one_step(denoiser, batch, LogNormal())
    noised = fake.noised
    assert torch.equal(noised.x_t, process.add_noise(batch.images, noised.eps, noised.t))
    assert noised.x_t.dtype == noised.eps.dtype == fake.prediction.x0.dtype == torch.float64
    assert noised.t.unique().numel() == 8
    assert torch.equal(fake.prediction.x0, denoiser(noised.x_t, noised.t).x0)
    again = one_step(denoiser, batch_of(8), LogNormal())
    assert torch.equal(again.prediction.x0, fake.prediction.x0)


def test_few_step_uses_the_given_levels_and_each_about_equally_often():
    denoiser, levels = Denoiser(Gaussian(VP(), "v", 0.0, 1.0), VP(), "v"), torch.tensor([0.25, 0.5, 1.0])
    fake = few_step(denoiser, batch_of(3000, shape=(1, 1, 1)), levels)
    times, counts = fake.noised.t.unique(return_counts=True)
    assert torch.equal(times, levels)
    assert (counts - 1000).abs().max() < 4 * math.sqrt(3000 * 1 / 3 * 2 / 3)  # 4 standard deviations


class KnowsTheImage(nn.Module):
    """A perfect prediction, for data that is one single image."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x, time):
        return self.x_0.expand_as(x)


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()])
def test_a_perfect_prediction_makes_posterior_steps_like_the_real_ones(process):
    """(x_s, x_t) and (x_s_fake, x_t) have one mean and covariance: alpha x_0, sigma^2 and (alpha_t/alpha_s) sigma_s^2.

    27 000 numbers a level, in true standard deviations: 4 standard errors are 0.025 of means and 0.035 of products.
    """
    x_0 = torch.tensor([0.7, -0.2]).double().view(1, 2, 1, 1)
    batch = Batch(x_0.expand(40000, 2, 1, 1), None, Draws(0, phase="test"))
    levels = torch.tensor([0.0, 0.3, 0.6, 0.95], dtype=torch.float64)
    denoiser = Denoiser(KnowsTheImage(x_0), process, "x0")
    step = posterior_step(denoiser, batch, levels)
    for low, high in itertools.pairwise(levels):
        rows = step.t == high
        assert (step.s[rows] == low).all()
        assert rows.double().mean().item() == pytest.approx(1 / 3, abs=0.01)
        alpha_s, sigma_s, alpha_t, sigma_t = (f(x[None]) for x in (low, high) for f in (process.alpha, process.sigma))
        x_t = ((step.x_t[rows] - alpha_t * x_0) / sigma_t).flatten()
        for x_s in (step.x_s_real[rows].detach(), step.x_s_fake[rows].detach()):
            if sigma_s == 0:  # the clean image itself
                torch.testing.assert_close(x_s, x_0.expand_as(x_s))
                continue
            z = ((x_s - alpha_s * x_0) / sigma_s).flatten()
            assert abs(z.mean().item()) < 0.03
            assert z.square().mean().item() == pytest.approx(1, abs=0.04)
            correlation = alpha_t / alpha_s * sigma_s / sigma_t
            assert (z * x_t).mean().item() == pytest.approx(correlation.item(), abs=0.04)
        assert x_t.square().mean().item() == pytest.approx(1, abs=0.04)


def test_the_fake_of_a_posterior_step_carries_gradient_and_the_real_one_none():
    network = Tiny()
    step = posterior_step(Denoiser(network, VP(), "v"), batch_of(), torch.tensor([0.0, 0.5, 1.0]))
    assert step.x_s_fake.requires_grad
    assert not step.x_s_real.requires_grad
    assert not step.x_t.requires_grad
    assert step.x_s_fake.dtype == torch.float64
