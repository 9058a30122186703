"""MeanFlow: the mean velocity of Gaussian data, the target by hand, derivatives in three ways, what a sampler tells."""

import pytest
import torch
from diffusers import UNet2DModel
from few_step_parts import STD, At, Formula, fakes_shown, gaussian_batch, slope
from method_parts import denoiser, projected

from sparring.data import Batch, Draws
from sparring.generators import Denoiser, Sampling
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.meanflow import MeanFlow, MeanFlowStep
from sparring.networks import MLP
from sparring.process import VP, RectifiedFlow


def mean_velocity(alpha, sigma, t, length):
    """(1 - sqrt(V_r / V_t)) / (t - r) with V = (1 - t)^2 s^2 + t^2; for r = t the velocity."""
    variance = lambda t: ((1 - t) * STD).square() + t.square()  # noqa: E731
    plain = (t - (1 - t) * STD**2) / variance(t)
    mean = (1 - (variance(t - length) / variance(t)).sqrt()) / length.clamp(min=1e-9)
    return torch.where(length > 1e-9, mean, plain)


def method_of(t, r, formula=mean_velocity, **settings):
    return MeanFlow(Formula(RectifiedFlow(), "flow", formula), times=At(t), other_times=At(r), **settings)


@pytest.mark.parametrize(("t", "r"), [(0.9, 0.1), (0.5, 0.4), (0.3, 0.9)])
@pytest.mark.parametrize("mode", ["forward", "reverse", "difference"])
def test_the_mean_velocity_of_gaussian_data_is_its_own_target(t, r, mode):
    """Regressed on x_t, for v is the velocity of each image."""
    method = method_of(t, r, share=1.0, derivative=mode)
    batch = gaussian_batch(100_000)
    rollout = method.rollout(batch)
    x_t = RectifiedFlow().add_noise(batch.x_0, _noise(batch), torch.full((100_000,), max(t, r)).double())
    assert slope(rollout.velocity, x_t) == pytest.approx(slope(rollout.target, x_t), abs=0.01)


def _noise(batch):
    """The noise of a rollout; `At` draws nothing."""
    draws = Draws(0, phase="rollout")
    draws.uniform((len(batch),))
    return draws.normal(tuple(batch.x_0.shape)).double()


def test_with_equal_times_it_is_flow_matching():
    for settings in (dict(t=0.6, r=0.6), dict(t=0.6, r=0.2, share=0.0)):
        method, batch = method_of(**settings), gaussian_batch()
        torch.testing.assert_close(method.rollout(batch).target, _noise(batch) - batch.x_0)


def test_data_at_a_point_is_solved_exactly():
    """x_t = t eps: u = x / t for every r, and its target is eps = x / t, too."""
    method = method_of(0.8, 0.3, lambda alpha, sigma, t, length: 1 / t, share=1.0)
    batch = Batch(torch.zeros(50, 1, 2, 2, dtype=torch.float64), draws=Draws(0))
    rollout = method.rollout(batch)
    torch.testing.assert_close(rollout.velocity, rollout.target, rtol=1e-4, atol=1e-6)
    assert method.generator_loss(batch, rollout)["mean_velocity"].item() < 1e-4


def test_the_share_of_rows_with_two_times():
    method, batch = method_of(0.9, 0.1), gaussian_batch(20_000)
    whole = (method.rollout(batch).target - (_noise(batch) - batch.x_0)).abs().amax((1, 2, 3)) > 1e-9
    assert whole.double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_the_loss_by_hand():
    """|(3, 4)|^2 = 25, with p = 1/2 and c = 11: 25 / 6; its weight takes no gradient."""
    method = method_of(0.9, 0.1, power=0.5, offset=11.0)
    velocity = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 1, 1, 2).requires_grad_()
    loss = method.generator_loss(gaussian_batch(1), MeanFlowStep(velocity, torch.zeros_like(velocity)))["mean_velocity"]
    assert loss.item() == pytest.approx(25 / 6)
    (gradient,) = torch.autograd.grad(loss, velocity)
    assert gradient.flatten().tolist() == pytest.approx([1.0, 8 / 6])


def test_forward_and_reverse_derivatives_of_a_stock_network_agree_and_move_the_length():
    torch.manual_seed(0)
    net = MLP(width=16, depth=1).double()
    generator = Denoiser(net, RectifiedFlow(), "flow", second_time=True).double()
    for parameter in generator.time_slot.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x_0, targets = torch.randn(8, 2, 1, 1, dtype=torch.float64), []
    for r in (0.1, 0.3):
        for mode in ("forward", "reverse"):
            method = MeanFlow(generator, share=1.0, times=At(0.8), other_times=At(r), derivative=mode)
            targets.append(method.rollout(Batch(x_0, draws=Draws(0))).target)
    for one, other in (targets[:2], targets[2:]):  # the network embeds its time in float32
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(targets[0], targets[2])


def test_the_passes_of_a_difference_have_the_same_dropout():
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False, dropout=0.3,
    )  # fmt: skip
    generator = Denoiser(net.train(), RectifiedFlow(), "flow", second_time=True)
    x_0, targets = torch.randn(4, 1, 8, 8), []
    for mode in ("forward", "difference"):
        method = MeanFlow(generator, share=1.0, times=At(0.8), other_times=At(0.2), derivative=mode).train()
        torch.manual_seed(1)
        targets.append(method.rollout(Batch(x_0, draws=Draws(0))).target)
    exact, difference = (target.std() for target in targets)  # not exact for times of 1000 t
    assert difference < 2 * exact


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_sampler_tells_where_each_step_ends_and_lands_where_the_ode_does(steps):
    """From x_1 to s x_1 = 0.6 x_1, exactly, in any number of steps."""
    generator = Formula(RectifiedFlow(), "flow", mean_velocity)
    latents = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = generator.generate(RectifiedFlow().scheduler("ddim", "flow"), steps, latents=latents)
    torch.testing.assert_close(made.double(), STD * latents, rtol=1e-4, atol=1e-5)


def test_a_sampler_that_corrects_its_steps_is_refused():
    """Heun's method would average two mean velocities of different lengths."""
    generator = Formula(RectifiedFlow(), "flow", mean_velocity)
    generator.check_sampling(Sampling(n=1, steps=2, scheduler="euler"))
    with pytest.raises(ValueError, match="`scheduler=heun`: it corrects a step that this network makes as a whole"):
        generator.check_sampling(Sampling(n=1, steps=2, scheduler="heun"))


@pytest.mark.parametrize(("t", "r"), [(0.9, 0.1), (0.4, 0.4)])
def test_the_fake_of_a_discriminator_is_the_end_of_the_path(t, r):
    """Wherever the step of the student's own loss ends: s x_t / sqrt(V_t)."""
    method = method_of(t, r, discriminator=projected())
    shown, batch = fakes_shown(method), gaussian_batch()
    method.rollout(batch)
    ((noised, image),) = shown
    torch.testing.assert_close(noised.x_t, (1 - t) * batch.x_0 + t * _noise(batch))
    torch.testing.assert_close(image, noised.x_t * STD / ((STD * (1 - t)) ** 2 + t**2) ** 0.5, rtol=1e-6, atol=1e-8)


def test_other_methods_refuse_a_network_that_is_told_the_length_of_its_steps():
    """They would train it for length 0, and a sampler tells it another."""
    flow = Formula(RectifiedFlow(), "flow", mean_velocity)
    MeanFlow(flow).check(4)
    with pytest.raises(ValueError, match="second_time.*Diffusion.*length 0"):
        Diffusion(flow).check(4)


def test_what_it_refuses():
    flow = Formula(RectifiedFlow(), "flow", mean_velocity)
    for settings in (dict(share=1.5), dict(power=-1.0), dict(offset=0.0)):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
            MeanFlow(flow, **settings)
    with pytest.raises(ValueError, match="process=VP"):
        MeanFlow(Formula(VP(), "v", mean_velocity))
    with pytest.raises(ValueError, match="second_time"):
        MeanFlow(denoiser(process=RectifiedFlow(), kind="flow"))
