"""SiD and SiDA: value and slope for Gaussians by hand, gradient through both scores, the terms of the discriminator."""

import pytest
import torch
from score_parts import flow, points, student, train
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.sid import SiD
from sparring.methods.distillation.sida import SiDA
from sparring.networks import MLP
from sparring.objectives.scores import score_identity
from sparring.process import VP, Uniform


def sida(**settings):
    torch.manual_seed(0)
    return SiDA(Denoiser(MLP(width=16, depth=1), VP(), "v"), **settings).double()


def plane(phase="rollout"):
    real = torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase))


def gaussians(shift, alpha, sigma=1.3, n=400_000):
    """The loss without its normaliser and its slope in the shift m: data N(0, 1), fakes N(m, 1), x + sigma eps."""
    generator = torch.Generator().manual_seed(0)
    m = torch.tensor(shift, dtype=torch.float64, requires_grad=True)
    z, eps = (torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    x = m + z
    x_t = x + sigma * eps
    fixed = m.detach()  # the fake score knows the fakes and does not move with them
    real, fake = x_t / (1 + sigma**2), fixed + (x_t - fixed) / (1 + sigma**2)
    difference = real - fake
    loss = (difference * ((real - x) - alpha * difference)).mean()
    return loss.item(), torch.autograd.grad(loss, m)[0].item(), (x, real, fake)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_value_and_slope_for_shifted_gaussians_are_those_of_the_sheet(alpha):
    """(1 - a) m^2 k^2, whose slope is m k^2 whatever a is; k = sigma^2 / (1 + sigma^2)."""
    m, k = 0.8, 1.69 / 2.69
    value, slope, (x, real, fake) = gaussians(m, alpha)
    assert value == pytest.approx((1 - alpha) * m**2 * k**2, abs=2e-3)
    assert slope == pytest.approx(m * k**2, rel=1e-3)
    own = score_identity(x, real, fake, alpha)
    by_hand = ((real - fake) * ((real - x) - alpha * (real - fake)) / (x - real).abs().detach().clamp(min=1e-5)).mean()
    torch.testing.assert_close(own, by_hand)


def test_the_normaliser_has_no_slope_and_is_of_each_image():
    x = torch.tensor([[1.0, 3.0], [10.0, 30.0]], dtype=torch.float64, requires_grad=True)
    real, fake = x * 0, x.detach() * 0 + torch.tensor([1.0, 0.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(score_identity(x, real, fake, 1.0), x)
    torch.testing.assert_close(slope, torch.tensor([[1 / 8, 0.0], [1 / 80, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", [SiD, SiDA])
@pytest.mark.parametrize(("shift", "sign"), [(0.5, 1), (-0.5, -1), (0.0, 0)])
def test_the_student_goes_to_the_data_and_rests_there(kind, shift, sign, monkeypatch):
    if kind is SiDA:  # its middle is of a network; the term itself is looked at below
        monkeypatch.setattr("sparring.methods.distillation.sida.MiddleHead", lambda *_, **__: None)
        monkeypatch.setattr(SiDA, "head", property(lambda self: Flat()))
    method = student(kind, line=(1.0, shift))
    loss = method.generator_loss(points(4000, "generator"), method.rollout(points(4000)))["scores"]
    slope = torch.autograd.grad(loss, method.generator.net.b)[0].item()
    assert abs(slope) < 1e-12 if sign == 0 else slope * sign > 0.05


class Flat:
    """A discriminator that knows nothing."""

    def logits(self, features, given):
        return torch.zeros(len(features[0]), 1, dtype=torch.float64)


def test_gradient_passes_through_both_scores():
    """The slope in a student's image: without the networks' own it would be that of the bare -y only."""
    method = student(SiD, line=(1.0, 0.5), score_times=Uniform(low=0.5, high=0.6), alpha=0.0)
    method.rollout(points(8))
    x = torch.full((8, 1, 1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    rollout = method.rollout(points(8))
    rollout.x_0 = x
    noised = method.noised(points(8, "generator"), x, method.score_times)
    real, fake = method.estimates(points(8), noised)
    torch.autograd.grad(real.sum(), x, retain_graph=True)
    torch.autograd.grad(fake.sum(), x, retain_graph=True)
    (slope,) = torch.autograd.grad(method.generator_loss(points(8, "generator"), rollout)["scores"], x)
    d, c = real - fake, 1 - noised.t.double().view(-1, 1, 1, 1)
    k = c * c / (c**2 + (1 - c) ** 2)  # d real / d x, of both scores
    torch.testing.assert_close(slope, d * (k - 1) / (real - x).abs() / 8, rtol=1e-4, atol=1e-6)


def test_training_finds_the_gaussian_of_the_data():
    """From N(0, 1), with a fake score that learns from the start's: N(0.5, 0.6^2), within 0.06."""
    method = student(SiD, data=(0.5, 0.6), fakes=(0.0, 1.0))
    slope, shift = train(method, 250, (0.03, 0.01))
    assert (abs(slope), shift) == pytest.approx((0.6, 0.5), abs=0.06)


def test_the_terms_of_the_discriminator_are_means_over_its_map():
    method = sida(adversarial_weight=0.25, class_weight=0.5)
    rollout = method.rollout(plane())
    batch = plane("discriminator")
    noised = method.noised(plane("discriminator"), rollout.x_0.detach(), method.times)
    real = method.generator.process.add_noise(batch.x_0, noised.eps, noised.t)  # the same noise and level
    logits = [method.head.logits([x, noised.t], method.given(batch)) for x in (real, noised.x_t)]
    losses = method.discriminator_loss(batch, rollout)
    torch.testing.assert_close(losses["adversarial"], 0.25 * (softplus(-logits[0]) + softplus(logits[1])).mean())
    slopes = torch.autograd.grad(losses["adversarial"], list(method.fake_score.parameters()), allow_unused=True)
    assert slopes[0].abs().sum() > 0

    noised = method.noised(plane("generator"), rollout.x_0, method.score_times)
    size = (rollout.x_0 - method.estimates(batch, noised)[0]).abs().flatten(1).mean(1)
    logits = method.head.logits([noised.x_t, noised.t], method.given(batch)).flatten()
    mine = method.generator_loss(plane("generator"), rollout)
    torch.testing.assert_close(mine["adversarial"], 0.25 * (softplus(-logits) / size).mean())
    assert torch.autograd.grad(mine["adversarial"], rollout.x_0)[0].abs().sum() > 0


def test_without_weight_it_is_sid():
    method = sida(adversarial_weight=0.0, class_weight=0.0, alpha=1.2)
    torch.manual_seed(0)
    plain = SiD(Denoiser(MLP(width=16, depth=1), VP(), "v")).double()
    losses = []
    for one in (method, plain):
        rollout = one.rollout(plane())
        losses.append(one.generator_loss(plane("generator"), rollout)["scores"])
        losses.append(one.discriminator_loss(plane("discriminator"), rollout)["fake_score"])
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[3])


def test_order_levels_and_what_is_refused():
    assert not SiD.generator_first
    method = sida()
    assert (method.alpha, method.score_times.high) == (1.0, 0.8)
    assert SiD(method.generator).alpha == 1.2
    with pytest.raises(ValueError, match="class_weight=-1"):
        sida(class_weight=-1.0)
    assert SiD(flow(MLP(width=16)), num_steps=2).sampler == "lcm"
