"""The simulated sampler: its bounded gradient against closed forms, and where it starts."""

import itertools

import pytest
import torch
from diffusers import UNet2DModel
from rollout_parts import PATHS, Gaussian, Tiny, batch_of, closed_form, levels_of, noise_of, written_out

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.process import VP, scheduler_input, set_timesteps
from sparring.rollout import coefficients, draw_path, real_and_fake, simulate
from sparring.rollout.simulate import equalised_scales


def gradient_of(image, network, direction):
    """d <direction, image> / d parameters as one vector."""
    grads = torch.autograd.grad((image * direction).sum(), list(network.parameters()), retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads])


def subsets(n):
    return [list(k) for size in range(1, n + 1) for k in itertools.combinations(range(n), size)]


def assert_close_relative(value, expected, tolerance):
    assert (value - expected).norm().item() <= tolerance * expected.norm().item()


def test_what_a_discriminator_sees_is_one_of_three():
    with pytest.raises(ValueError, match="`discriminator_input=images` must be decoded, pixels or latents"):
        real_and_fake(Tiny(), batch_of(2), torch.zeros(2, 1, 1, 1), "images")


# -- the gradient of a simulated sampler -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PATHS if not name.startswith(("dpm", "heun", "unipc"))])
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


@pytest.mark.parametrize("name", [name for name in PATHS if name.startswith(("dpm", "heun", "unipc"))])
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


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("start", [0, 2])
def test_coefficients_are_the_closed_form_and_the_derivative_of_the_solver(name, start):
    """float32 inside diffusers' solvers: 4e-6 of the largest comes out, for DPM-Solver++ on EDM's range of sigma."""
    process, kind, scheduler_name = PATHS[name]
    c = torch.tensor(coefficients(process.scheduler(scheduler_name, kind), 4, start), dtype=torch.float64)
    first = 2 * start if scheduler_name == "heun" else start
    outputs = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in c[first:]]
    image = written_out(PATHS[name], 4, start, torch.ones(1).double(), torch.ones(1).double(), outputs)
    expected = torch.cat([torch.zeros(first).double(), *torch.autograd.grad(image.sum(), outputs)])
    torch.testing.assert_close(c, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    if scheduler_name in ("ddim", "euler"):
        closed = closed_form(PATHS[name], 4)[start:]
        torch.testing.assert_close(c[start:], closed, rtol=0, atol=1e-5 * closed.abs().max().item())


def test_equalising_factors_leave_calls_without_influence_alone():
    assert equalised_scales([-4.0, 0.0, 2.0, 1e-9]) == [0.75, 1.0, 1.5, 1.0]
    only_the_last = equalised_scales(coefficients(VP().scheduler("ddim", "x0"), 4))
    assert only_the_last == [1.0] * 4


def test_gradients_of_the_calls_are_scaled_and_the_image_is_not():
    network, direction, scales = Tiny(), torch.randn(3, 1, 4, 4, dtype=torch.float64), [2.0, 0.0, -1.0, 0.5]
    denoiser, scheduler = Denoiser(network, VP(), "v"), VP().scheduler("ddim", "v")
    plain = simulate(denoiser, batch_of(), scheduler, num_steps=4)
    c = closed_form(PATHS["ddim-v"], 4)
    steps = [gradient_of(output, network, direction) for _, _, output in network.calls]
    image = simulate(denoiser, batch_of(), scheduler, num_steps=4, grad_scales=scales)
    assert torch.equal(image, plain)
    expected = sum(s * x * g for s, x, g in zip(scales, c, steps, strict=True))
    assert_close_relative(gradient_of(image, network, direction), expected, 2e-6)


@pytest.mark.parametrize("scheduler_name", ["ddim", "dpm", "unipc", "heun", "euler"])
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

    diffusers' solvers compute in float32 (relative error 6e-8; 2e-6 comes out, for Heun on EDM's range of sigma).
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
    assert_close_relative(image.detach(), expected, 4e-6)
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
            output = denoiser.network(scheduler_input(scheduler, x, timestep), timestep)
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
    expected = denoiser.generate(scheduler, 10, latents=noise_of(batch))
    torch.testing.assert_close(image.detach(), expected, rtol=0, atol=3e-3 if name == "dpm-flow" else 5e-4)


def test_paths_start_uniformly_and_carry_gradient_in_k_of_the_steps_walked():
    """All starts and all subsets come up; fewer than k steps all carry gradient; one path serves a whole batch."""
    for choose in ("random", "last"):
        seen = {draw_path(Draws(0, step=i, phase="test"), 5, 3, choose=choose) for i in range(300)}
        assert {path.start for path in seen} == set(range(5))
        for path in seen:
            walked = range(path.start, 5)
            assert len(path.grad_steps) == min(3, len(walked))
            assert set(path.grad_steps) <= set(walked)
            assert choose != "last" or path.grad_steps[-1] == 4
        assert len(seen) == (10 + 4 + 1 + 1 + 1 if choose == "random" else 5)
    parts = [Draws(0, step=7, phase="test", rows=slice(i, i + 2), total=4) for i in (0, 2)]
    assert len({draw_path(part, 20, 2) for part in parts}) == 1
    assert draw_path(Draws(0), 5, 2, start="noise", choose="last").grad_steps == (3, 4)


def test_a_start_outside_the_path_is_refused():
    denoiser, scheduler = Denoiser(Tiny(), VP(), "v"), VP().scheduler("ddim", "v")
    for start in (-1, 4):
        with pytest.raises(ValueError, match="must lie on the path"):
            simulate(denoiser, batch_of(), scheduler, num_steps=4, start=start)


class Dropping(Tiny):
    """With dropout after its hidden layer."""

    def forward(self, x, time):
        hidden = self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None]
        return self.last(torch.dropout(torch.tanh(hidden), 0.2, self.training))


def test_the_rollout_is_the_sampler_also_for_a_network_with_dropout():
    """In training mode, and the network is in training mode afterwards."""
    network = Dropping().train()
    network.last.eval()
    denoiser = Denoiser(network, VP(zero_terminal_snr=True), "v")
    scheduler = denoiser.process.scheduler("ddim", "v")
    batch = batch_of()
    black = Batch(torch.zeros_like(batch.images), draws=Draws(0, phase="rollout"))
    image = simulate(denoiser, black, scheduler, num_steps=4)
    assert (network.training, network.first.training, network.last.training) == (True, True, False)
    latents = Draws(0, phase="rollout").normal(tuple(batch.images.shape)).double()
    sampled = Denoiser(network.eval(), denoiser.process, "v").generate(scheduler, 4, latents=latents)
    torch.testing.assert_close(image.detach(), sampled)
    assert image.requires_grad


def test_activations_that_are_computed_again_are_those_of_the_simulated_sampler():
    """With dropout in training mode and gradient checkpointing: the gradient is that without checkpointing."""
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        blocks = dict(down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], block_out_channels=[8])
        sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
        net = UNet2DModel(**blocks, **sizes, add_attention=False, dropout=0.5).train()
        denoiser = Denoiser(net, VP(), "v")
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        batch = Batch(images, draws=Draws(0, phase="rollout"))
        image = simulate(denoiser, batch, VP().scheduler("ddim", "v"), num_steps=2)
        image.pow(3).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        assert net.training
    assert torch.equal(*grads)
