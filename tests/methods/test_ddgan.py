"""DDGAN: its chain in training and in sampling, its losses, what it ships, and what it refuses."""

import itertools

import pytest
import torch
from method_parts import siamese
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import DDGAN
from sparring.networks import MLP, ConvDiscriminator, StepPerceptron
from sparring.objectives import R1
from sparring.process import EDM, VP

STEPS = 4


def ddgan(process=None, **settings):
    torch.manual_seed(0)
    generator = Denoiser(MLP(width=8, depth=1), process or VP(schedule="cosine"), "v", latent_dim=3)
    net = StepPerceptron(width=8, depth=2)
    return DDGAN(generator, PlainDiscriminator(net=net, given=["t", "x_t"]), num_steps=STEPS, **settings).double()


def batch(phase="rollout", n=6):
    points = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(points, draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = ddgan(penalty=R1(weight=3.0))
    rollout = method.rollout(batch())
    step, net = rollout.step, method.discriminator.net
    x_s = step.x_s_real.clone().requires_grad_()
    real, fake = (net(x, t=step.t, x_t=step.x_t) for x in (x_s, step.x_s_fake))
    (gradient,) = torch.autograd.grad(real.sum(), x_s, retain_graph=True)
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    torch.testing.assert_close(losses["r1"], 1.5 * gradient.square().sum((1, 2, 3)).mean())
    loss = method.generator_loss(batch("generator"), rollout)
    torch.testing.assert_close(loss["adversarial"], softplus(-fake).mean())
    cost = (step.prediction.x0 - step.x_t).square().sum((1, 2, 3))
    torch.testing.assert_close(rollout.views.given.cost, cost)


def test_the_fake_depends_on_the_latent_of_its_row():
    method = ddgan()
    step = method.rollout(batch()).step
    others = torch.randn(6, 3, dtype=torch.float64)
    assert not torch.allclose(method.generator(step.x_t, step.t, z=others).x0, step.prediction.x0)
    step.x_s_fake.sum().backward()
    assert method.generator.slot.layers[0].weight.grad.abs().max() > 0


class KnowsTheImage(nn.Module):
    """Predicts one image, whatever the noise."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x, time):
        return self.x_0.expand_as(x)


def test_sampling_walks_the_chain_that_is_trained():
    """With a perfect prediction, every state of the sampler has the law of x_s at one level of the training.

    From 20 000 rows of two numbers, 4 standard errors are 0.02 of means and 0.03 of squares.
    """
    method, x_0 = ddgan(), torch.tensor([0.7, -0.2]).double().view(1, 2, 1, 1)
    levels = method.levels
    assert levels.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    process, states = method.generator.process, []
    perfect = Denoiser(KnowsTheImage(x_0), process, "x0")
    latents = torch.randn(20000, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seeded = torch.Generator().manual_seed(1)
    scheduler = process.scheduler(method.sampler, "x0")
    perfect.generate(scheduler, STEPS, latents=latents, generator=seeded, watch=states.append, batch_size=20000)
    assert len(states) == len(levels)
    for state, level in zip(states, levels.flip(0), strict=True):
        alpha, sigma = process.alpha(level), process.sigma(level)
        if sigma == 0:
            torch.testing.assert_close(state, x_0.expand_as(state), atol=1e-6, rtol=0)
            continue
        z = (state - alpha * x_0) / sigma
        assert z.mean().abs() < 0.02
        assert z.square().mean().item() == pytest.approx(1, abs=0.03)
    for (noisy, t), (clean, s) in itertools.pairwise(zip(states[:-1], levels.flip(0), strict=False)):
        alpha_t, sigma_t, alpha_s, sigma_s = (f(x) for x in (t, s) for f in (process.alpha, process.sigma))
        product = ((noisy - alpha_t * x_0) * (clean - alpha_s * x_0)).mean() / (sigma_t * sigma_s)
        assert product.item() == pytest.approx((alpha_t / alpha_s * sigma_s / sigma_t).item(), abs=0.03)


def test_what_it_cannot_work_with_is_refused():
    with pytest.raises(ValueError, match="'ddpm' does not exist for EDM"):
        DDGAN(Denoiser(MLP(width=8), EDM(), "edm", latent_dim=3), PlainDiscriminator(net=StepPerceptron()))
    with pytest.raises(ValueError, match="compares fakes with the images they were made from"):
        DDGAN(ddgan().generator, siamese())
    with pytest.raises(ValueError, match="num_steps=0"):
        DDGAN(ddgan().generator, ddgan().discriminator, num_steps=0)
    with pytest.raises(ValueError, match="augment.*x_t"):
        PlainDiscriminator(net=ConvDiscriminator(neighbour=True), given=["x_t"], augment="translation")


def test_a_network_of_steps_sees_both_points_and_the_time():
    torch.manual_seed(0)
    net = StepPerceptron(width=8, depth=2)
    x, x_t, t = torch.randn(5, 2, 1, 1), torch.randn(5, 2, 1, 1), torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0])
    logits = net(x, t=t, x_t=x_t)
    assert logits.shape == (5, 1)
    for other in (net(x + 0.1, t=t, x_t=x_t), net(x, t=t - 0.2, x_t=x_t), net(x, t=t, x_t=x_t + 0.1)):
        assert ((other - logits).abs() > 1e-5).all()
    with pytest.raises(ValueError, match="an even width"):
        StepPerceptron(width=7)


def test_a_network_of_steps_may_see_the_cleaner_point_only():
    torch.manual_seed(0)
    net = StepPerceptron(width=8, depth=2, neighbour=False)
    x, t = torch.randn(5, 2, 1, 1), torch.full((5,), 0.5)
    assert net(x, t=t).shape == (5, 1)
    with pytest.raises(ValueError, match="x_t and `neighbour`"):
        net(x, t=t, x_t=x)


def test_its_field_is_drawn_at_the_times_of_the_chain():
    method, shown, made = ddgan(), batch("field"), torch.randn(3, 2, 1, 1, dtype=torch.float64)
    fields = method.fields(shown, made)
    eps = Draws(0, phase="field").normal((6, 2, 1, 1))[0].flatten().double()
    assert [field.caption for field in fields] == [f"t = {t:.2f}" for t in method.levels[1:]]
    net = method.discriminator.net
    for field, t in zip(fields, method.levels[1:].double(), strict=True):
        process = method.generator.process
        x_t = process.alpha(t) * shown.images[0].flatten() + process.sigma(t) * eps
        torch.testing.assert_close(field.x_t.double(), x_t, rtol=1e-4, atol=1e-5)
        logits = net(made, t=t.expand(3), x_t=x_t.view(1, 2, 1, 1).expand(3, 2, 1, 1)).flatten()
        torch.testing.assert_close(field.fake.double(), logits, rtol=1e-3, atol=1e-4)
