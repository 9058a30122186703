"""The loop against stock diffusers loops bit for bit; levels; guidance as a wrapper, with its closed form."""

import pytest
import torch
from diffusers import UNet2DModel
from gaussian_pair import GaussianPair
from rollout_parts import PATHS

from sparring.generators import Denoiser, Prediction
from sparring.generators.level import Level
from sparring.generators.loop import Walk
from sparring.generators.predictor import ClassifierFree, Intervention, wrapped
from sparring.process import EDM, VP, RectifiedFlow, initial_sample, scheduler_input, set_timesteps

EACH = pytest.mark.parametrize("name", [*PATHS, "ddpm-v", "lcm-v"])
STOCHASTIC = {"ddpm-v": (VP(), "v", "ddpm"), "lcm-v": (VP(), "v", "lcm")}
GAUSSIANS = [(VP(), "eps"), (VP(), "v"), (VP(), "x0"), (EDM(), "edm"), (RectifiedFlow(), "flow")]


@pytest.fixture(scope="module")
def net() -> UNet2DModel:
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,))
    sizes = dict(sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
    return UNet2DModel(**blocks, **sizes, add_attention=False, num_class_embeds=4).eval()


@EACH
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_samples_are_those_of_a_stock_loop_bit_for_bit(net, name, guidance):
    """Written out again as diffusers' pipelines have it: both conditions in one batch, none first."""
    process, kind, scheduler_name = (PATHS | STOCHASTIC)[name]
    denoiser = Denoiser(net, process, kind)
    noise = torch.Generator().manual_seed(3)
    latents, labels = torch.randn((5, 1, 4, 4), generator=noise), torch.arange(5) % 3
    scheduler = process.scheduler(scheduler_name, kind)
    set_timesteps(scheduler, 4)
    x = initial_sample(scheduler, latents)
    extra = {"generator": noise} if scheduler_name in ("ddpm", "lcm") else {}
    with torch.no_grad():
        for time in scheduler.timesteps:
            shown = scheduler_input(scheduler, x, time)
            if guidance == 1:
                output = net(shown, time.expand(5).float(), labels).sample
            else:
                both = torch.cat([torch.full_like(labels, 3), labels])
                none, told = net(shown.repeat(2, 1, 1, 1), time.expand(10).float(), both).sample.chunk(2)
                output = none + guidance * (told - none)
            x = scheduler.step(output, time, x, **extra).prev_sample
    settings = dict(scheduler=scheduler_name, labels=[0, 1, 2], guidance=guidance, seed=3)
    assert torch.equal(denoiser.sample(5, 4, **settings), x.clamp(-1, 1))


@EACH
def test_a_level_reads_the_scheduler_in_the_coordinates_of_the_process(name):
    """x_t = alpha x_0 + sigma eps is where the scheduler puts a noised image; the way back is exact."""
    process, kind, scheduler_name = (PATHS | STOCHASTIC)[name]
    walk = Walk(process.scheduler(scheduler_name, kind), 5, start=2)
    x_0, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    state, level = walk.noised(x_0, eps), walk.level(walk.first, process)
    x_t = level.x_t(state)
    torch.testing.assert_close(x_t, level.alpha * x_0 + level.sigma * eps, rtol=0, atol=3e-5 * state.abs().max().item())
    torch.testing.assert_close(level.state(x_t), state, rtol=1e-6, atol=0)
    assert level.times(3).tolist() == [level.t.item()] * 3
    assert level.noise_to_signal == pytest.approx((level.sigma / level.alpha).item())
    again = Level.at(process, level.t)
    torch.testing.assert_close(again.network_input(x_t), level.network_input(x_t), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again.model_time, level.model_time.double(), rtol=1e-6, atol=1e-9)


def test_a_walk_leaves_the_scheduler_that_it_is_given():
    scheduler = VP().scheduler("dpm", "v")
    set_timesteps(scheduler, 7)
    before = scheduler.timesteps
    walk = Walk(scheduler, 3)
    walk.run(walk.noise(torch.zeros(1, 1, 2, 2)), lambda _, x: x)
    assert torch.equal(scheduler.timesteps, before)
    assert len(walk.timesteps) == 3


# -- guidance ----------------------------------------------------------------------------------------------------------


def white(n):
    """Latents [n, 1, 1, 1] whose mean is 0 and whose variance is 1."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ((x - x.mean()) / x.std(correction=0)).view(n, 1, 1, 1)


def sampled(process, kind, scheduler, steps, n=400, generator=None, **settings):
    denoiser = Denoiser(GaussianPair(process, kind), process, kind)
    labels = torch.zeros(n, dtype=torch.int64)
    latents = white(n) if generator is None else torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=generator)
    sampler = process.scheduler(scheduler, kind)
    settings = {"batch_size": n} | settings
    x = denoiser.generate(sampler, steps, latents=latents, condition=labels, generator=generator, **settings)
    return x, denoiser.net.rows_of_calls


@pytest.mark.parametrize(("process", "kind"), GAUSSIANS)
def test_guidance_of_the_flow_has_its_closed_form_and_not_the_tilted_density(process, kind):
    x, _ = sampled(process, kind, "heun", 60, guidance=2.0)
    mean, variance = GaussianPair.ODE
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.var(correction=0).item() == pytest.approx(variance, abs=0.006)
    plain, _ = sampled(process, kind, "heun", 60)
    assert plain.mean().item() == pytest.approx(1, abs=0.02)
    assert plain.var(correction=0).item() == pytest.approx(0.25, abs=0.01)


def test_guidance_of_ancestral_sampling_has_another():
    """20 000 numbers: 4 standard errors are 0.009 of the mean and 0.0044 of the variance, and 400 steps have a bias."""
    x, _ = sampled(VP(), "v", "ddpm", 500, n=20000, generator=torch.Generator().manual_seed(0), guidance=2.0)
    mean, variance = GaussianPair.DDPM
    assert x.mean().item() == pytest.approx(mean, abs=0.012)
    assert x.var().item() == pytest.approx(variance, abs=0.007)


def test_guidance_of_one_is_no_wrapper_and_a_negative_one_moves_the_other_way():
    denoiser = Denoiser(GaussianPair(VP(), "v"), VP(), "v")
    assert wrapped(denoiser, [ClassifierFree(1.0)]) == denoiser.predict
    level, x_t, labels = Level.at(VP(), torch.tensor(0.3)), white(8), torch.zeros(8, dtype=torch.int64)
    with torch.no_grad():
        plain, more, less = (
            wrapped(denoiser, [ClassifierFree(weight)])(x_t, level, labels).x0 for weight in (1.0, 2.0, 0.0)
        )
    torch.testing.assert_close(more - plain, plain - less)
    assert (more > plain).all()  # towards the class, whose mean lies above


def test_outside_of_its_interval_guidance_is_plain_bit_for_bit_and_costs_nothing():
    plain, calls = sampled(VP(), "v", "ddim", 10)
    none, calls_none = sampled(VP(), "v", "ddim", 10, using=[ClassifierFree(3.0, (1e6, 1e7))])
    assert torch.equal(none, plain)
    assert calls_none == calls == [400] * 10
    always, _ = sampled(VP(), "v", "ddim", 10, guidance=3.0)
    wide, _ = sampled(VP(), "v", "ddim", 10, using=[ClassifierFree(3.0, (0, 1e7))])
    assert torch.equal(wide, always)
    some, calls_some = sampled(VP(), "v", "ddim", 10, using=[ClassifierFree(3.0, (0.5, 2.0))])
    walk, process = Walk(VP().scheduler("ddim", "v"), 10), VP()
    inside = [0.5 < walk.level(call, process).noise_to_signal <= 2.0 for call in range(10)]
    assert calls_some == [800 if within else 400 for within in inside]
    assert 0 < sum(inside) < 10
    assert not torch.equal(some, always)


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "dpm"])
def test_rows_do_not_see_each_other(scheduler):
    whole, _ = sampled(VP(), "v", scheduler, 6, n=8, using=[ClassifierFree(3.0, (0.1, 5.0))])
    one, _ = sampled(VP(), "v", scheduler, 6, n=8, using=[ClassifierFree(3.0, (0.1, 5.0))], batch_size=1)
    torch.testing.assert_close(one, whole, rtol=0, atol=1e-12)


def test_intervals_and_numbers_that_cannot_be_are_refused():
    denoiser = Denoiser(GaussianPair(VP(), "v"), VP(), "v")
    for interval in ((2.0, 1.0), (-1.0, 1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match=r"`interval=.*` must be two noise levels, 0 <= low < high"):
            ClassifierFree(2.0, interval)
    with pytest.raises(ValueError, match=r"`guidance_interval=\(2, 1\)` must be two noise levels"):
        denoiser.sample(1, 1, guidance=2.0, guidance_interval=(2, 1))
    with pytest.raises(ValueError, match="`batch_size=0` must be at least 1"):
        denoiser.sample(1, 1, batch_size=0)


class Seen(Intervention):
    """Notes what it is wrapped around."""

    def __init__(self, place, seen):
        self.place, self.seen = place, seen

    def wrap(self, inner, denoiser):
        def predict(x_t, level, condition):
            self.seen.append(self.place)
            return inner(x_t, level, condition)

        return predict


def test_gradients_lie_outside_then_edits_then_sums_then_calls_whatever_the_order():
    seen: list[str] = []
    denoiser = Denoiser(GaussianPair(VP(), "v"), VP(), "v")
    using = [Seen(place, seen) for place in ("mix", "gradient", "call", "edit")]
    wrapped(denoiser, using)(white(1), Level.at(VP(), torch.tensor(0.5)), torch.zeros(1, dtype=torch.int64))
    assert seen == ["gradient", "edit", "mix", "call"]


# -- predictions that are moved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()])
def test_a_shifted_estimate_is_the_same_for_every_kind_of_network(process):
    x_t, x_0, shift = torch.randn(3, 4, 1, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    alpha, sigma = (f(t).view(4, 1, 1, 1) for f in (process.alpha, process.sigma))
    eps = (x_t - alpha * x_0) / sigma
    outputs = {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0}
    for kind, output in outputs.items():
        moved = Prediction(output, x_t, t, kind, process).shifted(x0=shift)
        assert moved.kind == kind
        torch.testing.assert_close(moved.x0, x_0 + shift)
        torch.testing.assert_close(moved.eps, (x_t - alpha * (x_0 + shift)) / sigma)
