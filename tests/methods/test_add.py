"""ADD: the student's levels, the teacher and its gradient, R1 on the heads' inputs, the student by itself."""

import pytest
import torch
from diffusers import LCMScheduler
from method_parts import (
    Net,
    batch_of,
    denoiser,
    evaluated,
    images_of,
    logits,
    opponent_frozen,
    play,
    projected,
    total,
    touched,
)
from torch import nn

from sparring.data import Draws
from sparring.discriminators import Given
from sparring.methods.distillation.add import ADD
from sparring.objectives import Relativistic
from sparring.process import EDM, VP, RectifiedFlow


class TimedNet(Net):
    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, time):
        self.times.append(time)
        return super().forward(x, time)


@pytest.mark.parametrize(("num_steps", "expected"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_the_students_levels_are_those_at_which_it_is_sampled(num_steps, expected):
    net = TimedNet()
    method = ADD(denoiser(net), projected(), num_steps=num_steps)
    lcm = LCMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, original_inference_steps=1000)
    lcm.set_timesteps(num_steps)
    assert VP().model_time(method.levels).tolist() == expected == lcm.timesteps.tolist()
    method.generator.generate(VP().scheduler(method.sampler, "v"), method.sample_steps, latents=images_of())
    assert [time[0].item() for time in net.times] == expected
    net.times.clear()
    for step in range(20):
        method.rollout(batch_of(draws=Draws(0, step=step)))
    assert sorted(torch.cat(net.times).unique().tolist()) == sorted(expected)


def test_the_teacher_is_the_start_and_never_learns():
    method = ADD(denoiser(), projected())
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    start = method.generator.net.last.bias.detach().clone()
    play(method, [(images_of(), None)] * 5, lr=1e-2)
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())
    assert not torch.equal(method.generator.net.last.bias, start)
    assert torch.equal(method.teacher.net.last.bias, start)
    assert not method.teacher.training


def test_distillation_pulls_the_prediction_to_the_teachers_with_weight_alpha():
    """By hand, the target being constant: d/d theta = 2 lambda alpha_t (xhat - target) / (B D) d xhat/d theta."""
    method = ADD(denoiser(), projected(), adversarial_weight=0, distillation_weight=1.5)
    method.generator.net.last.bias.data += 0.2
    rollout = method.rollout(batch_of())
    x_hat = rollout.prediction.x0
    draws = Draws(0, phase="generator")
    t = VP().time_from_uniform(draws.uniform((6,)))
    x_t = VP().add_noise(x_hat.detach(), draws.normal((6, 1, 4, 4)).double(), t)
    with torch.no_grad():
        target = method.teacher(x_t, t).x0
    alpha = VP().alpha(t).double().view(-1, 1, 1, 1)
    losses = evaluated(method.generator_loss(batch_of(phase="generator"), rollout))
    assert list(losses) == ["distillation"]
    expected = 1.5 * (alpha * (x_hat - target).square()).mean()
    torch.testing.assert_close(losses["distillation"], expected, rtol=1e-6, atol=0)
    parameters = list(method.generator.parameters())
    by_hand = torch.autograd.grad(
        x_hat, parameters, grad_outputs=2 * 1.5 * alpha * (x_hat - target).detach() / x_hat.numel(), retain_graph=True
    )
    for grad, hand in zip(torch.autograd.grad(losses["distillation"], parameters), by_hand, strict=True):
        torch.testing.assert_close(grad, hand, rtol=1e-6, atol=1e-12)


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(images_of(1))

    def forward(self, x, time):
        return self.image.expand_as(x)


def test_distillation_is_zero_where_the_teacher_agrees():
    method = ADD(denoiser(Constant(), kind="x0"), projected())
    losses = evaluated(method.generator_loss(batch_of(), method.rollout(batch_of())))
    assert losses["distillation"].item() == 0


def test_the_generators_gradient_reaches_the_student_alone():
    method = ADD(denoiser(), projected(), r1_gamma=0.1)
    with opponent_frozen(method):
        total(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of()))).backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}


def test_r1_is_the_squared_gradient_at_the_inputs_of_the_heads():
    """gamma/2 times the mean over rows of |d sum(logits) / d maps|^2, summed over maps; it trains the heads alone."""
    method = ADD(denoiser(), projected(augment=""), r1_gamma=0.4)
    losses = method.discriminator_loss(batch_of(phase="discriminator"), method.rollout(batch_of()))
    discriminator = method.discriminator
    maps = [m.detach().requires_grad_() for m in discriminator.backbone.maps(images_of())]
    grads = torch.autograd.grad(discriminator.logits(maps, Given()).sum(), maps)
    expected = 0.2 * sum(g.square().sum() for g in grads) / 6
    torch.testing.assert_close(losses["r1"], expected)
    losses["r1"].backward()
    assert touched(discriminator) <= {name for name, p in discriminator.named_parameters() if p.requires_grad}
    assert touched(discriminator.heads)
    assert touched(method.generator) == set()
    plain = ADD(denoiser(), projected(augment=""))
    off = plain.discriminator_loss(batch_of(phase="discriminator"), plain.rollout(batch_of()))
    assert list(off) == ["adversarial"]
    torch.testing.assert_close(off["adversarial"], losses["adversarial"])


def test_r1_has_the_gradient_of_finite_differences():
    method = ADD(denoiser(), projected(augment=""), r1_gamma=0.4)
    rollout = method.rollout(batch_of())
    weight = method.discriminator.heads[0].first[0].weight
    (grad,) = torch.autograd.grad(method.discriminator_loss(batch_of(), rollout)["r1"], weight)
    direction, values = torch.randn_like(weight), []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight += step * direction
        values.append(method.discriminator_loss(batch_of(), rollout)["r1"].item())
        with torch.no_grad():
            weight -= step * direction
    assert (grad * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_without_adversarial_weight_there_is_no_discriminator_and_without_both_nothing_to_learn():
    method = ADD(denoiser(), projected(), adversarial_weight=0)
    assert method.discriminator is None
    assert list(method.generator_loss(batch_of(), method.rollout(batch_of()))) == ["distillation"]
    alone = ADD(denoiser(), projected(), distillation_weight=0)
    assert list(alone.generator_loss(batch_of(), alone.rollout(batch_of()))) == ["adversarial"]
    for weights in ((0, 0), (-1, 1)):
        with pytest.raises(ValueError, match="adversarial_weight"):
            ADD(denoiser(), projected(), adversarial_weight=weights[0], distillation_weight=weights[1])


def test_its_adversarial_losses_are_those_of_the_objective():
    method = ADD(denoiser(), projected(augment=""), objective=Relativistic(), adversarial_weight=0.5)
    rollout = method.rollout(batch_of())
    real_logit, fake_logit = (logits(method.discriminator, x) for x in (images_of(), rollout.prediction.x0))
    gap = nn.functional.softplus(real_logit - fake_logit)
    losses = evaluated(method.generator_loss(batch_of(), rollout))
    torch.testing.assert_close(losses["adversarial"], 0.5 * gap.mean())
    losses = method.discriminator_loss(batch_of(), rollout)
    torch.testing.assert_close(losses["adversarial"], nn.functional.softplus(fake_logit - real_logit).mean())


def test_a_conditional_discriminator_gets_the_classes_of_the_batch():
    method = ADD(denoiser(), projected(num_classes=10, augment=""))
    rollout = method.rollout(batch_of(labels=True))
    losses = evaluated(method.generator_loss(batch_of(labels=True), rollout))
    expected = -logits(method.discriminator, rollout.prediction.x0, labels=torch.arange(6)).mean()
    torch.testing.assert_close(losses["adversarial"], expected)


def test_student_steps_and_processes_that_cannot_work_are_refused():
    for num_steps in (0, 2000):
        with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
            ADD(denoiser(), projected(), num_steps=num_steps)
    with pytest.raises(ValueError, match="'lcm' does not exist"):
        ADD(denoiser(process=EDM(), kind="edm"), projected())


def test_the_levels_of_a_flow_are_those_of_its_sampler():
    process = RectifiedFlow(shift=3.0)
    method = ADD(denoiser(process=process, kind="flow"), projected(), num_steps=2)
    torch.testing.assert_close(method.levels, torch.tensor([1.0, 0.75]), rtol=0, atol=1e-6)  # 3 / 2 over 1 + 2 / 2
