"""RGM: its losses by hand, the law of its steps under a perfect restoration, and its chain in sampling."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import RGM
from sparring.networks import MLP, StepPerceptron
from sparring.process import EDM, VP
from sparring.rollout import fidelity, restoration_step


def rgm(process=None, **settings):
    torch.manual_seed(0)
    generator = Denoiser(MLP(width=8, depth=1), process or VP(schedule="cosine"), "v", latent_dim=3)
    net = StepPerceptron(width=8, depth=2, neighbour=False)
    return RGM(generator, PlainDiscriminator(net=net, given=["t"]), **settings).double()


def batch(phase="rollout", n=6):
    points = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(points, draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = rgm(fidelity_weight=0.2, adversarial_weight=0.5)
    rollout = method.rollout(batch())
    step, net = rollout.step, method.discriminator.net
    real, fake = (net(x, t=step.s) for x in (step.x_s_real, step.x_s_fake))
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    losses = method.generator_loss(batch("generator"), rollout)
    torch.testing.assert_close(losses["adversarial"], 0.5 * (softplus(-fake) - softplus(fake)).mean())
    alpha, sigma = (f(step.noised.t).view(-1, 1, 1, 1).double() for f in (VP_COSINE.alpha, VP_COSINE.sigma))
    left = (step.noised.x_t - alpha * step.prediction.x0).square().sum((1, 2, 3)) / (2 * sigma.flatten() ** 2)
    torch.testing.assert_close(losses["fidelity"], 0.2 * left.mean(), rtol=1e-5, atol=0)
    assert method.levels[1:].tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])


VP_COSINE = VP(schedule="cosine")


class KnowsTheImage(nn.Module):
    """Predicts one image, whatever the noise."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x, time):
        return self.x_0.expand_as(x)


def test_a_perfect_restoration_has_the_law_of_the_reals_and_half_a_number_for_each_pixel():
    """Of 16 numbers: 8. From 4000 rows, 4 standard errors are 0.18 of the fidelity and 0.03 of the squares."""
    x_0 = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    levels = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    given = Batch(x_0.expand(4000, 1, 4, 4), draws=Draws(0, phase="test"))
    denoiser = Denoiser(KnowsTheImage(x_0), VP_COSINE, "x0")
    step = restoration_step(denoiser, given, levels)
    assert fidelity(denoiser, step).mean().item() == pytest.approx(8.0, abs=0.18)
    clean = step.s == 0
    torch.testing.assert_close(step.x_s_fake[clean], x_0.expand_as(step.x_s_fake[clean]))
    alpha, sigma = (f(levels[1]) for f in (VP_COSINE.alpha, VP_COSINE.sigma))
    eps_t = step.noised.eps[~clean]
    for x_s in (step.x_s_real[~clean], step.x_s_fake[~clean]):
        noise = (x_s - alpha * x_0) / sigma
        assert noise.square().mean().item() == pytest.approx(1, abs=0.03)
        assert (noise * eps_t).mean().abs() < 0.03  # new noise, not that of x_t


def test_sampling_walks_the_chain_that_is_trained():
    method, x_0 = rgm(), torch.tensor([0.7, -0.2]).double().view(1, 2, 1, 1)
    perfect, states = Denoiser(KnowsTheImage(x_0), VP_COSINE, "x0"), []
    latents = torch.randn(10000, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seeded = torch.Generator().manual_seed(1)
    scheduler = VP_COSINE.scheduler(method.sampler, "x0")
    perfect.generate(scheduler, 4, latents=latents, generator=seeded, watch=states.append, batch_size=10000)
    for state, level in zip(states[1:-1], method.levels.flip(0)[1:-1], strict=True):
        noise = (state - VP_COSINE.alpha(level) * x_0) / VP_COSINE.sigma(level)
        assert noise.mean().abs() < 0.03
        assert noise.square().mean().item() == pytest.approx(1, abs=0.04)
    torch.testing.assert_close(states[-1], x_0.expand_as(latents), atol=1e-3, rtol=0)


def test_either_term_can_be_left_out_and_not_both():
    only = rgm(adversarial_weight=0.0)
    assert only.discriminator is None
    assert list(only.generator_loss(batch("generator"), only.rollout(batch()))) == ["fidelity"]
    prior = rgm(fidelity_weight=0.0)
    assert list(prior.generator_loss(batch("generator"), prior.rollout(batch()))) == ["adversarial"]
    with pytest.raises(ValueError, match="nothing would be learned"):
        rgm(fidelity_weight=0.0, adversarial_weight=0.0)
    with pytest.raises(ValueError, match="'lcm' does not exist for EDM"):
        RGM(Denoiser(MLP(width=8), EDM(), "edm", latent_dim=3), rgm().discriminator)
