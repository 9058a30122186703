"""IMM: zero for a point, the moments by hand, times in a group, exact steps of Gaussian data, what a sampler walks."""

import math

import pytest
import torch
from few_step_parts import STD, Formula, fakes_shown, gaussian_batch
from method_parts import denoiser, projected

from sparring.data import Batch, Draws
from sparring.methods.distillation.imm import IMM, IMMStep, slope_of_step
from sparring.objectives.moments import squared_moments
from sparring.process import VP, RectifiedFlow
from sparring.rollout.ode_step import ddim

PROCESSES = pytest.mark.parametrize(("process", "kind"), [(VP(schedule="cosine"), "v"), (RectifiedFlow(), "flow")])


def exact_step(alpha, sigma, t, length):
    """The clean image whose DDIM step from t to t - length ends on the ODE's path of N(0, STD^2), over x_t."""
    s = t - length
    deviation = lambda u: ((STD * alpha(u)).square() + sigma(u).square()).sqrt()  # noqa: E731
    ratio = sigma(s) / sigma(t)
    image = (deviation(s) / deviation(t) - ratio) / (alpha(s) - ratio * alpha(t))
    return torch.where(length > 1e-7, image, 0.0)  # a step of length 0 stays, whatever the image


def method_of(process, formula=exact_step, kind="x0", **settings):
    return IMM(Formula(process, kind, formula), **settings)


@PROCESSES
@pytest.mark.parametrize("group", [1, 2, 4])
def test_there_is_no_loss_for_data_at_a_point(process, kind, group):
    """Whatever is seen, the clean image is 0: both steps end at sigma_s eps of the same noise."""
    method = method_of(process, lambda alpha, sigma, t, length: 0 * t, group=group)
    batch = Batch(torch.zeros(8, 1, 2, 2, dtype=torch.float64), draws=Draws(0))
    rollout = method.rollout(batch)
    torch.testing.assert_close(rollout.far, rollout.near, rtol=1e-6, atol=1e-9)
    assert abs(method.generator_loss(batch, rollout)["moments"].item()) < 1e-6


def test_the_moments_by_hand():
    """Two rows each, D = 1, width 2: distances 1 within both, 3 and 4, 2 and 3 across."""
    far, near = (torch.tensor(x, dtype=torch.float64).view(2, 1, 1, 1) for x in ([0.0, 1.0], [3.0, 4.0]))
    k = lambda d: math.exp(-d / 2)  # noqa: E731
    expected = 2 * (1 + k(1)) / 2 - 2 * (k(3) + k(4) + k(2) + k(3)) / 4
    made = squared_moments(far, near, torch.full((2,), 2.0).double(), 2)
    assert made.tolist() == pytest.approx([expected], abs=1e-5)
    assert squared_moments(far, far.flip(0), torch.ones(2).double(), 2).item() == pytest.approx(0, abs=1e-9)
    assert squared_moments(far, near, torch.ones(2).double(), 1).shape == (2,)


def test_one_row_is_pulled_to_the_other():
    far, near = torch.zeros(1, 1, 1, 2, dtype=torch.float64, requires_grad=True), torch.ones(1, 1, 1, 2).double()
    (gradient,) = torch.autograd.grad(squared_moments(far, near, torch.ones(1), 1).sum(), far)
    assert (gradient < 0).all()


@PROCESSES
def test_times_are_shared_in_a_group_and_r_is_a_little_cleaner(process, kind):
    method = method_of(process, group=4, halvings=8)
    s, r, t = method.times(gaussian_batch(4000))
    for times in (s, r, t):
        assert torch.equal(times.view(-1, 4), times.view(-1, 4)[:, :1].expand(-1, 4))
    assert (s <= r).all()
    assert (r < t).all()
    ratio = [torch.exp(-0.5 * process.log_snr(times)) for times in (t, r)]
    free = (r > s) & (r < t - 1.1e-4)
    assert free.double().mean() > 0.3
    torch.testing.assert_close((ratio[0] - ratio[1])[free], torch.full_like(t, 160 / 256)[free], rtol=1e-5, atol=1e-6)
    largest = process.t_from_log_snr(torch.tensor(-2 * math.log(160.0)).double()).item()
    assert 0.98 * largest < t.max().item() <= largest
    assert t.mean().item() == pytest.approx(largest / 2, abs=0.03)
    assert (s / t).mean().item() == pytest.approx(0.5, abs=0.03)
    order = torch.tensor([2, 0, 3, 1])
    u = torch.rand(8, generator=torch.Generator().manual_seed(0)).view(2, 4)
    torch.testing.assert_close(method.shared(u.flatten()), method.shared(u[:, order].flatten()))


@PROCESSES
def test_the_width_is_the_slope_of_a_step(process, kind):
    generator, t, s = (
        denoiser(process=process, kind=kind),
        torch.full((6,), 0.8).double(),
        torch.full((6,), 0.3).double(),
    )
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    one = generator(x, t)
    other = type(one)(one.output + 1, one.x_t, t, kind, process)
    moved = (ddim(other, s) - ddim(one, s)).abs().mean((1, 2, 3))
    torch.testing.assert_close(moved.detach(), slope_of_step(process, s, t) * generator.x0_slope(t), rtol=1e-6, atol=0)


def test_the_exact_steps_of_gaussian_data_have_less_loss_than_others():
    """They are no minimum for every group, for x_r is on no path through x_t; in the mean others are worse."""
    losses = []
    for weight in (0.7, 1.0, 1.3):
        method = method_of(RectifiedFlow(), group=4, halvings=6)
        near = method.rollout(gaussian_batch(8000)).near
        method.generator.net.weight.data.fill_(weight)
        batch = gaussian_batch(8000)
        rollout = method.rollout(batch)
        losses.append(
            method.generator_loss(batch, IMMStep(rollout.far, near, rollout.s, rollout.r, rollout.t))["moments"]
        )
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


def test_both_steps_end_at_s_on_paths_of_the_data():
    """The exact steps of Gaussian data lead to its law at s: deviation sqrt(alpha_s^2 s^2 + sigma_s^2)."""
    process = RectifiedFlow()
    rollout = method_of(process, halvings=8).rollout(gaussian_batch(8000))
    apart = (rollout.r - rollout.s > 1e-6).view(-1, 1, 1, 1)
    deviation = ((STD * process.alpha(rollout.s)).square() + process.sigma(rollout.s).square()).sqrt().view(-1, 1, 1, 1)
    for made in (rollout.far, rollout.near):
        assert (made / deviation)[apart.expand_as(made)].std().item() == pytest.approx(1, abs=0.02)


@PROCESSES
def test_the_fake_of_a_discriminator_is_the_end_of_the_path(process, kind):
    """Wherever the steps of the student's own loss end: s x_t / sqrt(alpha^2 s^2 + sigma^2)."""
    method = method_of(process, discriminator=projected())
    shown, batch = fakes_shown(method), gaussian_batch()
    step = method.rollout(batch)
    ((noised, image),) = shown
    assert torch.equal(noised.t, step.t)
    deviation = ((STD * process.alpha(step.t)).square() + process.sigma(step.t).square()).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(image, noised.x_t * STD / deviation, rtol=1e-3, atol=1e-4)


def test_the_weight_by_hand():
    """Flow, a = 2, b = 4, t = 1/2: log SNR 0, its slope -8: sigmoid(4) / 2 * 8 * (1/4) / (1/2)."""
    method = method_of(RectifiedFlow(), group=1)
    half = torch.full((1,), 0.5).double()
    far, near = torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()
    loss = method.generator_loss(gaussian_batch(1), IMMStep(far, near, 0 * half, half, half))["moments"]
    weight = 2 / (1 + math.exp(-4))
    assert loss.item() == pytest.approx(weight * (2 - 2 * math.exp(-1)), rel=1e-3)  # of x0: width 1


@PROCESSES
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_sampler_walks_the_steps_it_was_told(process, kind, steps):
    def formula(alpha, sigma, t, length):  # in the network's own output
        image = exact_step(alpha, sigma, t, length)
        eps = (1 - alpha(t) * image) / sigma(t)
        return alpha(t) * eps - sigma(t) * image if kind == "v" else eps - image

    generator = Formula(process, kind, formula)
    latents = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = generator.generate(process.scheduler("ddim", kind), steps, latents=latents)
    torch.testing.assert_close(made.double(), STD * latents, rtol=1e-3, atol=1e-4)


def test_what_it_refuses():
    for settings in (dict(group=0), dict(halvings=0), dict(halvings=21)):
        with pytest.raises(ValueError, match="=".join(map(str, *settings.items()))):
            method_of(VP(), **settings)
    with pytest.raises(ValueError, match="second_time"):
        IMM(denoiser())
    with pytest.raises(ValueError, match="batch_size=6.*group=4"):
        method_of(VP()).check(6)
    with pytest.raises(ValueError, match="group=4.*6"):
        method_of(VP()).rollout(gaussian_batch(6))
