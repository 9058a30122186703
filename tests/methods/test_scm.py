"""sCM: slopes along paths against differences, solutions of Gaussian data, both ends of rho, the loss by hand."""

import math

import pytest
import torch
from few_step_parts import STD, At, Formula, end, gaussian_batch, mean, slope
from method_parts import Net, batch_of, denoiser, images_of, touched

from sparring.generators import Denoiser
from sparring.methods.distillation.scm import SCM, SCMStep
from sparring.process import EDM, VP, RectifiedFlow
from sparring.rollout import noise
from sparring.rollout.along_path import clean_image_along
from sparring.rollout.trigflow import TrigFlow

COSINE = VP(schedule="cosine")
T = 0.50037  # between two levels, where the formula has a slope in time


def method_of(formula, t=0.40037, process=COSINE, **settings):
    chosen = {"data_std": STD, "warmup": 0.0, "times": At(t), "derivative": "forward"} | settings
    return SCM(Formula(process, "x0", formula), **chosen)


@pytest.mark.parametrize(
    ("process", "kind"),
    [(VP(), "v"), (VP(), "eps"), (EDM(sigma_max=5.0), "edm"), (RectifiedFlow(), "flow"), (VP(), "x0")],
)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_the_slope_of_the_clean_image_is_a_difference_along_the_path(process, kind, mode):
    """Straight in x_0 and eps; at a trained level, where the process rounds its times."""
    generator, x_0 = denoiser(process=process, kind=kind), images_of()
    eps, t = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 0.6
    times = torch.full((6,), t, dtype=torch.float64)
    x_t, velocity = process.add_noise(x_0, eps, times), process.velocity(x_0, eps, times)
    value, made = clean_image_along(generator, x_t, times, velocity, mode=mode)
    torch.testing.assert_close(value, generator(x_t, times).x0.detach())
    h = 1e-4
    with torch.no_grad():
        ends = [generator(process.add_noise(x_0, eps, times + d), times + d).x0 for d in (h, -h)]
    torch.testing.assert_close(made, (ends[0] - ends[1]) / (2 * h), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("t", [0.01, 0.4, 0.995])
def test_a_difference_to_the_cleaner_side_is_nearly_the_slope(t):
    """Of a network that is smooth in time; its own slope in reverse mode. Half the interval halves what is missing."""
    generator, batch = denoiser(process=COSINE), batch_of()
    noised = noise(COSINE, batch, torch.full((6,), t, dtype=torch.float64))

    def slope_of(derivative, interval=0.02):
        flow = TrigFlow(COSINE, data_std=STD, derivative=derivative, interval=interval)
        return flow.along(generator, batch, noised, noised.x_0, noised.eps).slope

    exact = slope_of("reverse")
    error, half = ((slope_of("difference", one) - exact).norm() for one in (0.02, 0.01))
    assert error < 0.1 * exact.norm()
    assert t < 0.02 or half / error == pytest.approx(0.5, abs=0.1)


def test_the_other_end_of_a_difference_is_cleaner_and_on_the_same_path():
    """A central difference lets waves in t grow. Its own predictions at t - 0.02, or at 0."""
    generator, batch = denoiser(process=COSINE), batch_of()
    noised = noise(COSINE, batch, torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9]).double())
    flow = TrigFlow(COSINE, data_std=STD, derivative="difference", interval=0.02)
    made = flow.along(generator, batch, noised, noised.x_0, noised.eps).slope
    s = (noised.t - 0.02).clamp(min=0)
    before = generator(COSINE.add_noise(noised.x_0, noised.eps, s), s).x0
    expected = (generator(noised.x_t, noised.t).x0 - before) / (flow.angle(noised.t) - flow.angle(s)).view(-1, 1, 1, 1)
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("t", [0.10037, 0.50037, 0.90037])
@pytest.mark.parametrize("distil", [True, False])
def test_the_solution_of_gaussian_data_has_no_slope(t, distil):
    """Distilled, exactly: f is constant along the teacher's paths. Of data it is so in the mean."""
    method = method_of(end, t, distil=distil)
    if distil:
        method.teacher.formula = mean
    batch = gaussian_batch(100_000)
    rollout = method.rollout(batch)
    if distil:
        assert (rollout.target - rollout.output).abs().max() < 2e-3
    else:
        x_t = rollout.output  # a multiple of it
        assert slope(rollout.target, x_t) == pytest.approx(1, abs=0.05)


def test_the_solution_in_trigflow_is_minus_tan_of_half_the_angle():
    """F* = -tan(a / 2) x / s in TrigFlow's coordinates; the teacher of data with this deviation has F = 0."""
    method = method_of(end, T)
    batch = gaussian_batch()
    rollout = method.rollout(batch)
    angle = method.trigflow.angle(torch.tensor([T]).double()).item()
    assert math.tan(angle) == pytest.approx(
        (COSINE.sigma(torch.tensor(T).double()) / COSINE.alpha(torch.tensor(T).double())).item() / STD, rel=1e-4
    )
    x_t = COSINE.add_noise(batch.x_0, batch_noise(batch), torch.full((200,), T).double())
    scale = COSINE.alpha(torch.tensor(T).double()).item() / math.cos(angle)
    torch.testing.assert_close(rollout.output, -math.tan(angle / 2) * x_t / scale / STD, rtol=1e-4, atol=1e-5)
    copy = method_of(mean, T).rollout(batch)
    assert copy.output.abs().max() < 1e-6


def batch_noise(batch):
    from sparring.data import Draws

    return Draws(0, phase="rollout").normal(tuple(batch.x_0.shape)).double()


def test_without_rho_a_copy_of_the_teacher_stays():
    method = method_of(mean, warmup=1e9)
    rollout = method.rollout(gaussian_batch())
    assert (rollout.target - rollout.output).abs().max() < 1e-5
    whole = method_of(mean)
    assert (whole.rollout(gaussian_batch()).target - rollout.output).abs().max() > 0.1


def test_the_tangent_of_a_copy_by_hand():
    """F = 0 there, so x stands still in TrigFlow: df/da = -sin a x, and g = -cos a sin a x over its size and 0.1."""
    method, batch = method_of(mean, T), gaussian_batch()
    rollout, time = method.rollout(batch), torch.tensor(T).double()
    angle = method.trigflow.angle(time)
    x = COSINE.add_noise(batch.x_0, batch_noise(batch), time.expand(len(batch))) * angle.cos() / COSINE.alpha(time)
    tangent = -angle.cos() * angle.sin() * x
    size = tangent.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(rollout.target - rollout.output, tangent / (size + 0.1), rtol=1e-3, atol=1e-4)


def test_the_step_has_the_sign_that_flattens_f():
    """For data of deviation s, a student with F = k F* should move to k = 1 from both sides."""
    moved = []
    for factor in (0.8, 1.2):
        method = method_of(end)
        method.teacher.formula = mean
        method.generator.formula = lambda alpha, sigma, t, length, k=factor: (
            mean(alpha, sigma, t, length) + k * (end(alpha, sigma, t, length) - mean(alpha, sigma, t, length))
        )
        rollout = method.rollout(gaussian_batch())
        moved.append(slope(rollout.target, rollout.output))
    assert moved[0] > 1.02
    assert moved[1] < 0.98


def test_the_loss_by_hand():
    """Error 4 at tan a = 1, u = ln 2: 4 / 2 + ln 2; the head of u learns, too."""
    method = method_of(mean)
    method.uncertainty.linear.bias.data.fill_(math.log(2))
    zero = torch.zeros(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    step = SCMStep(zero, torch.full_like(zero, 2.0).detach(), torch.full((1,), -2 * math.log(STD)).double())
    loss = method.generator_loss(gaussian_batch(1), step)["consistency"]
    assert loss.item() == pytest.approx(2 + math.log(2), rel=1e-6)
    loss.backward()
    assert zero.grad.flatten().tolist() == pytest.approx([-1.0, -1.0])
    assert method.uncertainty.linear.bias.grad.item() == pytest.approx(1 - 2, rel=1e-6)


def test_the_student_and_the_uncertainty_learn():
    method = SCM(Denoiser(Net(), VP(), "v")).double()
    method.generator_loss(batch_of(), method.rollout(batch_of()))["consistency"].backward()
    student = {f"generator.{name}" for name, _ in method.generator.named_parameters()}
    assert touched(method) == student | {"uncertainty.linear.weight", "uncertainty.linear.bias"}


def test_what_it_refuses():
    for settings, message in [
        (dict(data_std=0.0), "data_std=0"),
        (dict(warmup=-1), "warmup=-1"),
        (dict(interval=0.5), "interval=0.5"),
        (dict(guidance=2.0), "guidance=2.0.*neither captions"),
        (dict(guidance=2.0, distil=False), "guidance=2.0.*distil=False"),
    ]:
        with pytest.raises(ValueError, match=message):
            SCM(denoiser(), **settings)
    with pytest.raises(ValueError, match="'lcm' does not exist for EDM"):
        SCM(denoiser(process=EDM(), kind="edm"))
