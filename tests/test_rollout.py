"""Rollouts: the bounded gradient of a simulated sampler against its closed form, starts, samples, and neighbours."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from torch import nn

from sparring.data import Batch, Draws
from sparring.denoiser import Denoiser
from sparring.process import EDM, VP, LogNormal, RectifiedFlow, Uniform, set_timesteps
from sparring.rollout import few_step, generate, network_output, one_step, posterior_step, simulate

VP_COSINE = VP(schedule="cosine")
PATHS = {
    "ddim-eps": (VP(), "eps", "ddim"),
    "ddim-v": (VP(), "v", "ddim"),
    "ddim-x0": (VP(), "x0", "ddim"),
    "euler-eps": (VP(), "eps", "euler"),
    "euler-flow": (RectifiedFlow(), "flow", "euler"),
    "euler-flow-shifted": (RectifiedFlow(shift=3.0), "flow", "euler"),
    "euler-edm": (EDM(), "edm", "euler"),
    "dpm-eps": (VP(), "eps", "dpm"),
    "dpm-v": (VP_COSINE, "v", "dpm"),
    "dpm-flow": (RectifiedFlow(), "flow", "dpm"),
    "dpm-edm": (EDM(), "edm", "dpm"),
    "heun-eps": (VP(), "eps", "heun"),
    "heun-v": (VP(), "v", "heun"),
    "heun-flow": (RectifiedFlow(), "flow", "heun"),
}


class Tiny(nn.Module):
    """A smooth network in float64 that remembers what it was shown and made."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.time = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(1, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)
        self.double()
        self.calls = []

    def forward(self, x, time):
        assert not x.requires_grad
        hidden = self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None]
        output = self.last(torch.tanh(hidden))
        self.calls.append((x.detach().clone(), time, output))
        return output


class Gaussian(nn.Module):
    """The optimal network for data N(mean, diag(variance)), as images [B, 1, 1, d]; it counts its calls."""

    def __init__(self, process, kind, mean, variance):
        super().__init__()
        self.process, self.kind, self.mean, self.variance, self.calls = process, kind, mean, variance, 0
        self.register_parameter("precision", nn.Parameter(torch.zeros((), dtype=torch.float64)))

    def forward(self, x, time):
        self.calls += 1
        t = self.process.t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if isinstance(self.process, EDM):
            x = x * (sigma**2 + self.process.sigma_data**2).sqrt()
        x_0 = self.mean + alpha * self.variance / (alpha**2 * self.variance + sigma**2) * (x - alpha * self.mean)
        eps = (x - alpha * x_0) / sigma
        spread = sigma**2 + 0.5**2
        edm = (x_0 - 0.5**2 / spread * x) / (0.5 * sigma / spread.sqrt())
        return {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0, "edm": edm}[self.kind]


def batch_of(n=3, seed=0, shape=(1, 4, 4), labels=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 2 - 1
    return Batch(images, labels, Draws(seed, phase="test"))


def noise_of(batch):
    """The noise a rollout of this batch starts from, drawn again."""
    return Draws(batch.draws.seed, phase="test").normal(batch.images.shape).double()


def levels_of(process, name, num_steps):
    """The path as (alpha, sigma) per step in float64, with the clean image (1, 0) at its end."""
    if isinstance(process, VP):
        n = torch.arange(num_steps, 0, -1, dtype=torch.float64) * (1000 / num_steps)  # trailing: 1000, ...
        t = n.round() / 1000
    elif isinstance(process, RectifiedFlow):
        t = torch.linspace(1, 1 / num_steps, num_steps).double()  # diffusers makes them in float32
        if name == "heun":
            t = torch.linspace(1, 0.001, num_steps).double()
        t = process.shift * t / (1 + (process.shift - 1) * t)
        if name == "dpm":  # DPM-Solver++ for flows has its own grid: 1 (a little less), ..., 1/m
            scheduler = process.scheduler("dpm", "flow")
            set_timesteps(scheduler, num_steps)
            t = scheduler.sigmas[:-1].double()
    else:
        t = torch.linspace(1, 0, num_steps).double()
    end = torch.zeros(1, dtype=torch.float64)
    return torch.cat([process.alpha(t), 1 + end]), torch.cat([process.sigma(t), end])


def x0_coefficients(process, kind, alpha, sigma):
    """(p, q) with x_0 = p x + q output, for every prediction type."""
    if kind == "edm":
        spread = sigma**2 + process.sigma_data**2
        return process.sigma_data**2 / spread, sigma * process.sigma_data / spread**0.5
    return {"eps": (1 / alpha, -sigma / alpha), "x0": (0.0, 1.0), "v": (alpha, -sigma), "flow": (1.0, -sigma)}[kind]


def written_out(path, num_steps, start, x_0, eps, outputs):
    """The sampler again, in plain float64 formulas and the process's own scale; `outputs` are the network's, in order.

    First order: DDIM, x' = alpha' x_0 + sigma' eps, which is also Euler in x / alpha over sigma / alpha, and in t for a
    flow. "dpm": DPM-Solver++ 2M (Lu et al. 2022), x' = sigma'/sigma x + alpha' (1 - e^-h) ((1 + w) m - w m_before) with
    m = x_0, w = h / (2 h_before) and h the step in log(alpha/sigma); the first and the last step are of order one.
    "heun": the trapezoidal rule in the variables of Euler; the last step is of order one.
    """
    process, kind, name = path
    alphas, sigmas = levels_of(process, name, num_steps)
    outputs, before, h_before = iter(outputs), None, None
    x = alphas[start] * x_0 + sigmas[start] * eps
    for i in range(start, num_steps):
        alpha, sigma, alpha_next, sigma_next = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
        p, q = x0_coefficients(process, kind, alpha, sigma)
        m = p * x + q * next(outputs)
        h = (alpha_next / sigma_next).log() - (alpha / sigma).log()
        last = i == num_steps - 1
        if name == "dpm" and i > start and not last:
            w = h / (2 * h_before)
            x = sigma_next / sigma * x + alpha_next * (1 - torch.exp(-h)) * ((1 + w) * m - w * before)
        elif name == "heun" and kind == "flow" and not last:
            x = x + (sigma_next - sigma) * ((x - m) / sigma + next(outputs)) / 2
        elif name == "heun" and not last:  # z = x / alpha over u = sigma / alpha: dz/du = (z - x_0) / u
            z, u, u_next = x / alpha, sigma / alpha, sigma_next / alpha_next
            slope = (z - m) / u
            z_next = z + (u_next - u) * slope
            p_next, q_next = x0_coefficients(process, kind, alpha_next, sigma_next)
            slope_next = (z_next - (p_next * alpha_next * z_next + q_next * next(outputs))) / u_next
            x = alpha_next * (z + (u_next - u) * (slope + slope_next) / 2)
        else:
            x = sigma_next / sigma * x + (alpha_next - sigma_next * alpha / sigma) * m
        before, h_before = m, h
    return x


def closed_form(path, num_steps):
    """c_i of the sheet for the first-order samplers: b_i times the later a_j, telescoped where they telescope."""
    process, kind, name = path
    alpha, sigma = levels_of(process, name, num_steps)
    if kind == "eps":
        return (sigma / alpha).diff()  # sigma'/alpha' - sigma/alpha
    if kind == "flow":
        return sigma.diff()
    if kind == "v":
        a = alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:]
        b = sigma[1:] * alpha[:-1] - alpha[1:] * sigma[:-1]
    elif kind == "x0":
        a = sigma[1:] / sigma[:-1]
        b = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
    else:
        p, q = x0_coefficients(process, "edm", alpha[:-1], sigma[:-1])
        a = sigma[1:] / sigma[:-1] + (1 - sigma[1:] / sigma[:-1]) * p
        b = (1 - sigma[1:] / sigma[:-1]) * q
    later = torch.cat([a, torch.ones(1).double()]).flip(0).cumprod(0).flip(0)[1:]
    return b * later


def gradient_of(image, network, direction):
    """d <direction, image> / d parameters as one vector."""
    grads = torch.autograd.grad((image * direction).sum(), list(network.parameters()), retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads])


def subsets(n):
    return [list(k) for size in range(1, n + 1) for k in itertools.combinations(range(n), size)]


def assert_close_relative(value, expected, tolerance):
    assert (value - expected).norm().item() <= tolerance * expected.norm().item()


# -- the gradient of a simulated sampler -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PATHS if not name.startswith(("dpm", "heun"))])
def test_gradient_is_the_sum_over_chosen_steps_of_the_closed_form(name):
    """d image / d theta = sum_{i in K} c_i d f(sg x_i) / d theta, for each of the 15 subsets K of a path of 4 steps.

    diffusers keeps alpha in float32 and Euler computes in float32 (relative error 6e-8; 3e-7 comes
    out). Where the network predicts x_0, every c but the last is 0: DDIM ends on its last prediction.
    """
    process, kind, scheduler_name = PATHS[name]
    network = Tiny()
    denoiser, scheduler = Denoiser(network, process, kind), process.scheduler(scheduler_name, kind)
    direction = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    c = closed_form(PATHS[name], 4)
    simulate(denoiser, batch_of(), scheduler, num_steps=4)
    steps = [gradient_of(output, network, direction) for _, _, output in network.calls]
    for chosen in subsets(4):
        image = simulate(denoiser, batch_of(), scheduler, num_steps=4, grad_steps=chosen)
        assert image.dtype == torch.float64
        expected = sum(c[i] * steps[i] for i in chosen)
        assert_close_relative(gradient_of(image, network, direction), expected, 2e-6)


@pytest.mark.parametrize("name", [name for name in PATHS if name.startswith(("dpm", "heun"))])
def test_gradient_through_multistep_and_heun_is_the_derivative_of_the_solver(name):
    """Here c_i is the derivative of the solver, written out again, with respect to its i-th output alone.

    Earlier outputs that the solver uses again are included; a Heun step in K has both of its calls.
    """
    process, kind, scheduler_name = PATHS[name]
    network = Tiny()
    denoiser, scheduler = Denoiser(network, process, kind), process.scheduler(scheduler_name, kind)
    batch, direction = batch_of(), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    simulate(denoiser, batch_of(), scheduler, num_steps=4)
    outputs = [output.detach().requires_grad_() for _, _, output in network.calls]
    image = written_out(PATHS[name], 4, 0, batch.images, noise_of(batch), outputs)
    weighted = torch.autograd.grad((image * direction).sum(), outputs)
    calls = [gradient_of(output, network, g) for (_, _, output), g in zip(network.calls, weighted, strict=True)]
    steps = [sum(calls[2 * i : 2 * i + 2]) for i in range(4)] if scheduler_name == "heun" else calls
    for chosen in subsets(4):
        image = simulate(denoiser, batch_of(), scheduler, num_steps=4, grad_steps=chosen)
        assert_close_relative(gradient_of(image, network, direction), sum(steps[i] for i in chosen), 1e-5)


@pytest.mark.parametrize("scheduler_name", ["ddim", "dpm", "heun", "euler"])
def test_only_the_chosen_steps_keep_a_graph(scheduler_name):
    """What autograd keeps (beyond the solver's numbers) is that of k network calls, however long the path is."""
    network = Tiny()
    denoiser, scheduler = Denoiser(network, VP(), "v"), VP().scheduler(scheduler_name, "v")
    kept = {}
    for num_steps, k in itertools.product((4, 8, 20, 40), (0, 1, 2, 4)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            image = simulate(denoiser, batch_of(), scheduler, num_steps=num_steps, grad_steps=list(range(k)))
        kept[num_steps, k] = [size for size in sizes if size > 1]
        assert image.requires_grad == (k > 0)
    one = kept[4, 1]
    assert len(one) >= 5
    for (num_steps, k), sizes in kept.items():
        calls = k if scheduler_name != "heun" or (num_steps, k) != (4, 4) else 3.5  # its last step has one call
        assert (len(sizes), sum(sizes)) == (calls * len(one), calls * sum(one)), (num_steps, k)


def test_without_gradient_there_is_no_graph_and_the_image_is_the_same():
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler("dpm", "v")
    with torch.no_grad():
        still = simulate(denoiser, batch_of(), scheduler, num_steps=4, grad_steps=[2])
    assert not still.requires_grad
    assert not any(output.requires_grad for _, _, output in denoiser.net.calls)
    assert torch.equal(still, simulate(denoiser, batch_of(), scheduler, num_steps=4, grad_steps=[2]).detach())


def test_the_scheduler_of_the_caller_is_left_as_it_was():
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler("dpm", "v")
    set_timesteps(scheduler, 5)
    simulate(denoiser, batch_of(), scheduler, num_steps=4)
    assert len(scheduler.timesteps) == 5
    assert scheduler.model_outputs == [None, None]
    assert scheduler.step_index is None


# -- the start of a simulated sampler ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("start", range(4))
def test_the_image_is_what_the_solver_makes_from_the_noised_real_image(name, start):
    """From any step of the path: alpha x_0 + sigma eps, carried to the end by the solver written out again.

    diffusers' solvers compute in float32 (relative error 6e-8; 4e-7 comes out).
    """
    process, kind, scheduler_name = PATHS[name]
    network = Tiny()
    denoiser, batch = Denoiser(network, process, kind), batch_of()
    scheduler = process.scheduler(scheduler_name, kind)
    image = simulate(denoiser, batch, scheduler, num_steps=4, start=start)
    calls = 2 * (4 - start) - 1 if scheduler_name == "heun" else 4 - start
    assert len(network.calls) == calls
    outputs = [output.detach() for _, _, output in network.calls]
    expected = written_out(PATHS[name], 4, start, batch.images, noise_of(batch), outputs)
    assert_close_relative(image.detach(), expected, 2e-6)
    first_x, first_time, _ = network.calls[0]
    alphas, sigmas = levels_of(process, scheduler_name, 4)
    x = alphas[start] * batch.images + sigmas[start] * noise_of(batch)
    if kind == "edm":
        x = x / (sigmas[start] ** 2 + process.sigma_data**2).sqrt()
    assert_close_relative(first_x, x, 1e-6)
    assert (first_time == first_time[0]).all()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("start", [0, 2])
def test_after_the_start_the_scheduler_alone_gives_the_same_image(name, start):
    process, kind, scheduler_name = PATHS[name]
    denoiser, batch = Denoiser(Tiny(), process, kind), batch_of()
    scheduler = process.scheduler(scheduler_name, kind)
    image = simulate(denoiser, batch, scheduler, num_steps=4, start=start)
    set_timesteps(scheduler, 4)
    first = start * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    noising = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
    if noising is not None:
        x = noising(batch.images, timesteps[:1], noise_of(batch))
    else:
        x = scheduler.add_noise(batch.images, noise_of(batch), timesteps[:1].expand(3))
    with torch.no_grad():
        for timestep in timesteps:
            output = network_output(denoiser, scheduler, x, timestep, None)
            x = scheduler.step(output, timestep, x).prev_sample
    torch.testing.assert_close(image.detach(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_from_the_noisiest_level_of_a_black_image_it_is_generate_from_the_same_noise(name):
    """Within what the noisiest level keeps of the image: sigma_T is 1 - 2e-5 for VP, 80 of (80^2 + 1)^0.5 for EDM.

    DPM-Solver++ starts flows at 0.999.
    """
    process, kind, scheduler_name = PATHS[name]
    mean, variance = torch.tensor([0.3, -0.5, 0.1]).double(), torch.tensor([0.5, 0.3, 0.02]).double()
    denoiser = Denoiser(Gaussian(process, kind, mean, variance), process, kind)
    batch = Batch(torch.zeros(16, 1, 1, 3).double(), None, Draws(0, phase="test"))
    scheduler = process.scheduler(scheduler_name, kind)
    image = simulate(denoiser, batch, scheduler, num_steps=10)
    expected = generate(denoiser, scheduler, 10, latents=noise_of(batch))
    torch.testing.assert_close(image.detach(), expected, rtol=0, atol=3e-3 if name == "dpm-flow" else 5e-4)


def test_a_start_outside_the_path_is_refused():
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler("ddim", "v")
    for start in (-1, 4):
        with pytest.raises(ValueError, match="must lie on the path"):
            simulate(denoiser, batch_of(), scheduler, num_steps=4, start=start)


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
    x = generate(denoiser, process.scheduler(scheduler_name, kind), 100, latents=white(50, 3)).flatten(1)
    assert x.dtype == torch.float64
    tolerance = 0.006 if scheduler_name in ("dpm", "heun") else 0.03
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(x.T.cov(correction=0), variance.diag(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scheduler_name", ["ddim", "dpm", "euler", "heun"])
def test_splitting_the_batch_changes_nothing_for_a_deterministic_sampler(scheduler_name):
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler(scheduler_name, "v")
    latents = torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = generate(denoiser, scheduler, 5, latents=latents)
    split = generate(denoiser, scheduler, 5, latents=latents, batch_size=4)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-6 if scheduler_name != "ddim" else 1e-12)
    assert not whole.requires_grad


def test_the_path_can_be_watched_from_the_latents_to_the_image():
    denoiser, states = Denoiser(Tiny(), VP(), "v"), []
    latents = batch_of(3).images
    image = generate(denoiser, VP().scheduler("heun", "v"), 4, latents=latents, batch_size=2, watch=states.append)
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
    x = generate(denoiser, scheduler, 4, latents=latents, generator=generator)
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
        generate(denoiser, VP().scheduler("ddim", "x0"), 4, latents=batch_of().images, labels=labels, batch_size=2),
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
