"""RDGAN: its losses by hand, what is left of them without relaxation, and how far a single real can pull."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import DDGAN, RDGAN
from sparring.networks import MLP, StepPerceptron
from sparring.objectives import Scores
from sparring.process import VP


def method_of(kind, **settings):
    torch.manual_seed(0)
    generator = Denoiser(MLP(width=8, depth=1), VP(schedule="cosine"), "v", latent_dim=3)
    return kind(generator, PlainDiscriminator(net=StepPerceptron(width=8, depth=2), given=["t", "x_t"]), **settings)


def batch(phase="rollout", n=6):
    points = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(points, draws=Draws(0, phase=phase))


def losses_of(method):
    """Both losses of one step, the logits behind them and the cost."""
    method = method.double()
    rollout = method.rollout(batch())
    losses = [
        method.discriminator_loss(batch("discriminator"), rollout)["adversarial"],
        method.generator_loss(batch("generator"), rollout)["adversarial"],
    ]
    step, net = rollout.step, method.discriminator.net
    real, fake = (net(x, t=step.t, x_t=step.x_t).squeeze(1) for x in (step.x_s_real, step.x_s_fake))
    return losses, real, fake, (step.prediction.x0 - step.x_t).square().sum((1, 2, 3))


def test_its_losses_by_hand():
    (d, g), real, fake, cost = losses_of(method_of(RDGAN, tau=0.3))
    torch.testing.assert_close(d, softplus(-real).mean() + softplus(fake - 0.3 * cost).mean())
    torch.testing.assert_close(g, (0.3 * cost - fake).mean())
    (d, _), real, fake, cost = losses_of(method_of(RDGAN, tau=0.3, phi1="linear"))
    torch.testing.assert_close(d, softplus(-real).mean() + (fake - 0.3 * cost).mean())


def test_a_single_real_pulls_by_less_than_one():
    """dL_D / dr = -sigmoid(-r) for the logit r of a real: in (-1, 0), and least for the ones that are clear already."""
    method = method_of(RDGAN)
    reals = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    scores = [Scores(reals), Scores(torch.zeros(5).double(), cost=torch.zeros(5).double())]
    (pull,) = torch.autograd.grad(method.objective.discriminator(*scores) * 5, reals)
    torch.testing.assert_close(pull, -torch.sigmoid(-reals))
    assert (pull >= -1).all()


def test_without_relaxation_it_is_balanced_and_with_softplus_alone_the_loss_of_ddgan():
    """Both conjugates linear and no cost: the gap of the means. Both softplus and no cost: DDGAN's L_D, not its L_G."""
    (d, g), real, fake, _ = losses_of(method_of(RDGAN, tau=0.0, phi1="linear", phi2="linear"))
    torch.testing.assert_close(d, fake.mean() - real.mean())
    torch.testing.assert_close(g, -fake.mean())
    robust, plain = losses_of(method_of(RDGAN, tau=0.0))[0], losses_of(method_of(DDGAN))[0]
    torch.testing.assert_close(robust[0], plain[0])
    assert (robust[1] - plain[1]).abs() > 0.1


def test_the_discriminator_is_not_pushed_through_the_cost_and_the_generator_is():
    method = method_of(RDGAN, tau=1.0).double()
    rollout = method.rollout(batch())
    method.discriminator_loss(batch("discriminator"), rollout)["adversarial"].backward()
    assert all(parameter.grad is None for parameter in method.generator.parameters())
    for parameter in method.discriminator.parameters():
        parameter.requires_grad_(False).zero_()  # so that all logits are 0
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, (rollout.step.prediction.x0 - rollout.step.x_t).square().sum((1, 2, 3)).mean())
    assert torch.autograd.grad(loss, method.generator.slot.layers[0].weight)[0].abs().max() > 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="`phi2=cubic`"):
        method_of(RDGAN, phi2="cubic")
    with pytest.raises(ValueError, match=r"`weight=-1\.0`"):
        method_of(RDGAN, tau=-1.0)
