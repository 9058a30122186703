"""Training for guidance: ordinary training where the weight is one, and what the losses make of ideal networks."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.denoising.cfg_aware import CFGAware
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.denoising.model_guidance import ModelGuidance
from sparring.process import VP, Times


class At(Times):
    def __call__(self, process, draws, n):
        return torch.full((n,), 0.4, dtype=torch.float64)


class Constants(nn.Module):
    """One number for each class, the last for none; whatever it is shown."""

    num_classes = 3

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x, time, labels):
        return self.values[labels].view(-1, 1, 1, 1).expand_as(x)


def denoiser(*values, dropout=0.5):
    return Denoiser(Constants(*(values or (0.1, -0.2, 0.3))), VP(), "x0", condition_dropout=dropout).train()


def batch(n=8, draws=None):
    """Class 0 is the number 1, class 1 is -1/2: as means of outputs m_c = (1, -1/2), and m_u = 1/4."""
    labels = torch.arange(n) % 2
    images = torch.where(labels == 0, 1.0, -0.5).double().view(n, 1, 1, 1)
    return Batch(images, labels, draws or Draws(0, phase="x"))


def gradient(method, n=4000):
    """Of the loss with respect to the numbers, as if each image were seen."""
    (found,) = torch.autograd.grad(
        sum(method.generator_loss(batch(n), method.rollout(batch(n))).values()), method.generator.net.values
    )
    return found


@pytest.mark.parametrize(
    "made", [lambda d: CFGAware(d, weights=(1.0, 1.0), times=At()), lambda d: ModelGuidance(d, weight=1.0, times=At())]
)
def test_with_weight_one_it_is_ordinary_training_bit_for_bit(made):
    method, plain = made(denoiser()), Diffusion(denoiser(), times=At())
    (loss,) = method.generator_loss(batch(), method.rollout(batch())).values()
    (expected,) = plain.generator_loss(batch(), plain.rollout(batch())).values()
    assert torch.equal(loss, expected)
    assert torch.equal(gradient(method), gradient(plain))


@pytest.mark.parametrize("weight", [2.0, 3.0])
def test_for_one_weight_the_best_output_with_a_class_lies_that_much_nearer_to_that_without(weight):
    """told* = m_u + (m_c - m_u) / w: there the gradient of the classes vanishes, and at m_c it does not."""
    mean = torch.tensor([1.0, -0.5]).double()
    best = 0.25 + (mean - 0.25) / weight
    at_best = gradient(CFGAware(denoiser(*best.tolist(), 0.25), weights=(weight, weight), times=At()))
    assert at_best[:2].abs().max() < 1e-12
    assert at_best[2].abs() < 0.02  # of a random half of the images
    ordinary = gradient(CFGAware(denoiser(*mean.tolist(), 0.25), weights=(weight, weight), times=At()))
    assert ordinary[:2].abs().min() > 0.3


def test_for_random_weights_the_factor_is_that_of_their_moments():
    """E[w] / E[w^2] = 2 / (13 / 3) for w uniform in [1, 3]; 4000 images: 3 standard errors."""
    mean = torch.tensor([1.0, -0.5]).double()
    best = 0.25 + (mean - 0.25) * 2 / (13 / 3)
    found = gradient(CFGAware(denoiser(*best.tolist(), 0.25), weights=(1.0, 3.0), times=At()), 20000)
    assert found[:2].abs().max() < 0.03


@pytest.mark.parametrize("weight", [1.2, 1.45])
def test_the_fixed_point_of_model_guidance_is_guidance_by_one_over_two_less_the_weight(weight):
    mean = torch.tensor([1.0, -0.5]).double()
    fixed = mean + (weight - 1) / (2 - weight) * (mean - 0.25)
    torch.testing.assert_close(fixed, 0.25 + (mean - 0.25) / (2 - weight))
    method = ModelGuidance(denoiser(*fixed.tolist(), 0.25), weight=weight, times=At())
    assert gradient(method)[:2].abs().max() < 1e-12
    ordinary = ModelGuidance(denoiser(*mean.tolist(), 0.25), weight=weight, times=At())
    assert gradient(ordinary)[:2].abs().min() > 0.05


def test_only_conditional_images_below_the_time_and_after_the_start_are_guided():
    method = ModelGuidance(denoiser(1.0, -0.5, 0.25), weight=1.5, times=At())
    rollout = method.rollout(batch(64))
    given = Denoiser.condition_with_dropout(method.generator, batch(64, rollout_draws()))
    gaps = rollout.gap.flatten()
    assert (gaps[given == 2] == 0).all()
    torch.testing.assert_close(gaps[given == 0], torch.full_like(gaps[given == 0], 0.5 * 0.75))
    torch.testing.assert_close(gaps[given == 1], torch.full_like(gaps[given == 1], 0.5 * -0.75))
    assert 0 < (given == 2).sum() < 64
    assert (ModelGuidance(denoiser(), until=0.3, times=At()).rollout(batch()).gap == 0).all()
    late = ModelGuidance(denoiser(), start_step=2, times=At())
    assert (late.rollout(batch()).gap == 0).all()
    late.step = 2
    assert late.rollout(batch()).gap.abs().max() > 0


def rollout_draws():
    """Draws of a rollout behind the noise, where the classes are left out."""
    draws = Draws(0, phase="x")
    draws.normal((64, 1, 1, 1))
    return draws


def test_the_average_follows_and_no_gradient_passes_through_it():
    method = ModelGuidance(denoiser(), decay=0.9, times=At())
    before = method.average.module.net.values.clone()
    with torch.no_grad():
        method.generator.net.values += 1
    method.after_step()
    torch.testing.assert_close(method.average.module.net.values, before + 0.1)
    sum(method.generator_loss(batch(), method.rollout(batch())).values()).backward()
    assert method.average.module.net.values.grad is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CFGAware(denoiser(), weights=(3.0, 1.0)), "`weights=.*` must be two numbers, 0 < low <= high"),
        (lambda: CFGAware(denoiser(dropout=0.0)), "needs a class-conditional network and `denoiser.condition_dropout`"),
        (lambda: ModelGuidance(denoiser(), weight=2.0), r"`weight=2.0` must lie in \[1, 2\)"),
        (lambda: ModelGuidance(denoiser(dropout=0.0)), "needs a class-conditional network"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
