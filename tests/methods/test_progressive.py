"""Progressive distillation: the halved target, zero for what needs no distillation, rounds and their teachers."""

import math

import pytest
import torch
from method_parts import ClassNet, Net, batch_of, denoiser, images_of, touched
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.progressive import Progressive
from sparring.process import EDM, VP, Constant, RectifiedFlow, SNRPlusOne, Uncertainty
from sparring.rollout.ode_step import ddim, image_of_step

PROCESSES = pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(shift=2.0), "flow")])


class Point(nn.Module):
    """Data at one point: the clean image is the same whatever is seen."""

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(images_of(1))

    def forward(self, x, time):
        return self.image.expand_as(x)


class Linear(nn.Module):
    """The clean image is a multiple of x_t that depends on the time: Gaussian data, or two of its steps in one."""

    def __init__(self, process, num_steps=None):
        super().__init__()
        self.process, self.num_steps = process, num_steps
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def slope(self, t):
        alpha, variance = 0.6 * self.process.alpha(t), self.process.sigma(t).square()
        return 0.6 * alpha / (alpha.square() + variance)

    def step(self, t, s):
        """x_s / x_t of a DDIM step."""
        alpha, sigma, slope = self.process.alpha, self.process.sigma, self.slope(t)
        return alpha(s) * slope + sigma(s) * (1 - alpha(t) * slope) / sigma(t)

    def forward(self, x, time):
        t = self.process.t_from_model_time(time.double())
        slope = self.slope(t)
        if self.num_steps is not None:
            s, m = ((t - part / self.num_steps).clamp(min=0) for part in (1, 0.5))
            ratio = self.process.sigma(s) / self.process.sigma(t)
            slope = (self.step(t, m) * self.step(m, s) - ratio) / (
                self.process.alpha(s) - ratio * self.process.alpha(t)
            )
        return self.weight * slope.view(-1, 1, 1, 1) * x


@PROCESSES
@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 4), (8, 1)])
def test_one_step_of_the_target_is_two_steps_of_the_teacher(process, kind, first, last):
    method = Progressive(denoiser(process=process, kind=kind), first_steps=first, last_steps=last)
    rollout = method.rollout(batch_of(40))
    t = rollout.noised.t
    u = t / (process.shift - (process.shift - 1) * t)
    end, middle = (method.level((u - part / first).double().clamp(min=0)) for part in (1, 0.5))
    with torch.no_grad():
        x_m = ddim(method.teacher(rollout.noised.x_t, t), middle)
        x_s = ddim(method.teacher(x_m, middle), end)
    x_t = rollout.noised.x_t
    eps = (x_t - process.alpha(t).view(-1, 1, 1, 1) * rollout.target) / process.sigma(t).view(-1, 1, 1, 1)
    made = process.add_noise(rollout.target, eps, end)
    torch.testing.assert_close(made, x_s, rtol=1e-4, atol=2e-5)
    assert sorted((u * first).round().unique().tolist()) == list(range(1, first + 1))


@PROCESSES
def test_the_last_target_is_the_teachers_image_at_the_middle(process, kind):
    method = Progressive(denoiser(process=process, kind=kind), first_steps=1)
    rollout = method.rollout(batch_of())
    assert rollout.noised.t.tolist() == [1.0] * 6
    middle = method.level(torch.full((6,), 0.5).double())
    with torch.no_grad():
        expected = method.teacher(ddim(method.teacher(rollout.noised.x_t, rollout.noised.t), middle), middle).x0
    torch.testing.assert_close(rollout.target, expected, rtol=1e-5, atol=1e-5)


def test_a_copy_has_no_loss_if_the_data_is_a_point():
    method = Progressive(Denoiser(Point(), VP(), "x0"), first_steps=4)
    assert method.generator_loss(batch_of(), method.rollout(batch_of()))["distillation"].item() < 1e-9


def test_a_linear_student_of_two_steps_in_one_has_no_loss_and_the_copy_has():
    process = VP(schedule="cosine")
    method = Progressive(Denoiser(Linear(process), process, "x0"), first_steps=4)
    before = method.generator_loss(batch_of(), method.rollout(batch_of()))["distillation"].item()
    method.generator.net.num_steps = 4
    after = method.generator_loss(batch_of(), method.rollout(batch_of()))["distillation"].item()
    assert before > 1e-3
    assert after < 1e-6


def test_a_target_is_its_own_step():
    process, t = RectifiedFlow(), torch.full((6,), 0.8).double()
    prediction = denoiser(process=process, kind="flow")(images_of(), t)
    for s in (0.0, 0.3, 0.75):
        end = torch.full_like(t, s)
        made = image_of_step(process, images_of(), ddim(prediction, end), t, end)
        torch.testing.assert_close(made, prediction.x0, rtol=1e-6, atol=1e-9)


def test_the_weight_is_the_larger_of_snr_and_one():
    """Flow: at t = 1/4, 1/2, 3/4, 1 the SNR is 9, 1, 1/9, 0."""
    for weighting, weights in ((None, [9, 1, 1, 1]), (SNRPlusOne(), [10, 2, 10 / 9, 1])):
        generator = denoiser(process=RectifiedFlow(), kind="flow")
        method = Progressive(generator, first_steps=4, last_steps=4, weighting=weighting)
        rollout = method.rollout(batch_of(12))
        weight = torch.tensor(weights).double()[(4 * rollout.noised.t).round().long() - 1]
        expected = (weight * (rollout.image - rollout.target).square().mean((1, 2, 3))).mean()
        loss = method.generator_loss(batch_of(12), rollout)["distillation"]
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_the_student_becomes_the_teacher_when_a_round_ends():
    method = Progressive(denoiser(), first_steps=4)
    method.steps, seen = 6, []
    bias = method.generator.net.last.bias
    start = bias.item()
    for method.step in range(6):
        method.rollout(batch_of())
        seen.append((method.statistics["calls"].item(), round(method.teacher.module.net.last.bias.item() - start, 6)))
        bias.data += 1.0
        method.after_step()
    assert seen == [(4, 0), (4, 0), (2, 2), (2, 2), (1, 4), (1, 4)]
    assert method.round == 2
    assert "round" in method.state_dict()
    method.step = 0  # a longer run has its rounds later: none comes again
    method.after_step()
    assert method.round == 2


def test_only_the_first_teacher_is_guided():
    net = ClassNet()
    method = Progressive(Denoiser(net, VP(), "v"), first_steps=2, guidance=3.0)
    calls = method.teacher.module.net.labels
    batch = Batch(images_of(), torch.arange(6), Draws(0))
    method.rollout(batch)
    assert [labels.tolist() for labels in calls] == [list(range(6)), [9] * 6] * 2
    calls.clear()
    method.round += 1
    method.rollout(batch)
    assert [labels.tolist() for labels in calls] == [list(range(6))] * 2


def test_only_the_student_learns():
    method = Progressive(Denoiser(Net(), VP(), "v"))
    method.generator_loss(batch_of(), method.rollout(batch_of()))["distillation"].backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}


def test_what_it_refuses():
    for settings in (dict(first_steps=6), dict(last_steps=0), dict(first_steps=2, last_steps=4)):
        with pytest.raises(ValueError, match="times 1, 2, 4, 8"):
            Progressive(denoiser(), **settings)
    with pytest.raises(ValueError, match="EDM"):
        Progressive(denoiser(process=EDM(), kind="edm"))
    with pytest.raises(ValueError, match="guidance=2.0"):
        Progressive(denoiser(), guidance=2.0)


def test_a_learned_weighting_has_its_own_term():
    """Without it the loss would fall by a larger uncertainty alone."""
    plain, learned = (
        Progressive(denoiser(), weighting=weighting) for weighting in (Constant(), Uncertainty(weighting=Constant()))
    )
    with torch.no_grad():
        learned.weighting.linear.bias.fill_(0.7)
    step = plain.rollout(batch_of())
    error, weighed = (one.generator_loss(batch_of(), step)["distillation"].item() for one in (plain, learned))
    assert weighed == pytest.approx(math.exp(-0.7) * error + 0.7, rel=1e-5)
