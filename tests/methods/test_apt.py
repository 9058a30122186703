"""APT: clean images at random times, the losses and the penalty's gamma by hand, a point mass, what it refuses."""

import pytest
import torch
from method_parts import batch_of, denoiser, siamese
from test_d2o import Rows
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import DenoiserDiscriminator, PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods.distillation.apt import APT
from sparring.networks import MLP
from sparring.objectives import ApproximateR2
from sparring.process import RectifiedFlow, Uniform


class PointMass(nn.Module):
    """The exact flow of a point: v = (x - point) / t."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.full((), 0.3, dtype=torch.float64))

    def forward(self, x, time):
        return (x - self.point) / (time.to(x) / 1000)[:, None, None, None]


def linear(**settings):
    return APT(denoiser(), PlainDiscriminator(net=Rows(1)), **settings)


def test_the_exact_flow_of_a_point_mass_returns_the_point():
    method = APT(Denoiser(PointMass(), RectifiedFlow(), "flow"), PlainDiscriminator(net=nn.Flatten()))
    fake = method.rollout(batch_of()).fake
    torch.testing.assert_close(fake, torch.full_like(fake, 0.3), rtol=1e-5, atol=1e-6)


def test_both_losses_are_those_of_the_equations():
    method = linear(penalty=[])
    rollout, logits = method.rollout(batch_of()), method.discriminator.net
    real, fake = logits(batch_of().images), logits(rollout.fake)
    losses = method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    torch.testing.assert_close(losses, {"adversarial": softplus(fake).mean() + softplus(-real).mean()})
    torch.testing.assert_close(method.generator_loss(batch_of(), rollout), {"adversarial": softplus(-fake).mean()})


def test_the_penalty_of_a_linear_discriminator_is_lambda_s_squared_w_squared():
    """lambda 100 and s 0.01, of the paper: 0.01 |w|^2; over 4000 rows within 5 %."""
    method = linear()
    batch = Batch(torch.zeros(4000, 1, 4, 4, dtype=torch.float64), draws=Draws(0))
    losses = method.discriminator_loss(batch, method.rollout(batch))
    w = method.discriminator.net.layer.weight
    assert losses["approximate_r1"].item() == pytest.approx(100 * 0.01**2 * w.square().sum().item(), rel=0.05)


def test_the_discriminator_is_a_copy_that_sees_clean_images_at_random_times():
    torch.manual_seed(0)
    method = APT(Denoiser(MLP(width=16, depth=1), RectifiedFlow(), "flow"), times=Uniform())
    assert isinstance(method.discriminator, DenoiserDiscriminator)
    seen = []
    method.discriminator.denoiser.net.register_forward_pre_hook(lambda layer, given: seen.append(given))
    batch = Batch(torch.rand(1000, 2, 1, 1), draws=Draws(0))
    rollout = method.rollout(batch)
    assert torch.equal(rollout.views.real[0], batch.images)
    t = rollout.views.given.t
    assert (t.min().item(), t.mean().item(), t.max().item()) == pytest.approx((0, 0.5, 1), abs=0.05)
    method.generator_loss(batch, rollout)
    x, time = seen[0]
    assert torch.equal(x, rollout.fake)
    torch.testing.assert_close(time, 1000 * t)
    own = {id(p) for p in method.generator.parameters()}
    assert not own & {id(p) for p in method.discriminator.parameters()}


def test_several_penalties_take_the_place_of_the_papers():
    assert [type(p).__name__ for p in linear(penalty=ApproximateR2(weight=1.0)).penalties] == ["ApproximateR2"]


def test_what_it_refuses():
    with pytest.raises(ValueError, match="num_steps=0"):
        linear(num_steps=0)
    with pytest.raises(ValueError, match="compares fakes"):
        APT(denoiser(), siamese())
    with pytest.raises(ValueError, match="no last layer is known of a Net"):
        APT(denoiser())
