"""SAN: its losses by hand, and that only the gap trains the direction of the last layer."""

import torch

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.san import SAN
from sparring.networks import Perceptron
from sparring.objectives import Wasserstein


def san(**settings):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    return SAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), **settings).double()


def batch(phase="rollout"):
    points = torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(points, draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = san()
    net = method.discriminator.discriminator.net
    rollout = method.rollout(batch())
    fake = method.generator(Draws(0, phase="rollout").normal((6, 3)).double())
    real, faked = (net.features(x) for x in (batch().images, fake.detach()))
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    r, f = net.read_out(real), net.read_out(faked)
    gap = (f - r).mean()  # without the bias, which cancels
    torch.testing.assert_close(losses["adversarial"], (1 - r).relu().mean() + (1 + f).relu().mean() + gap)
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, -net(fake).mean())
    torch.testing.assert_close(torch.autograd.grad(loss, fake_parameters(method)), by_hand(method, net))


def fake_parameters(method):
    return list(method.generator.parameters())


def by_hand(method, net):
    fake = method.generator(Draws(0, phase="rollout").normal((6, 3)).double())
    return torch.autograd.grad(-net(fake).mean(), fake_parameters(method))


def test_without_its_weight_the_direction_stays():
    for weight, moves in ((0.0, False), (1.0, True)):
        method = san(objective=Wasserstein(), direction_weight=weight)
        layer = method.discriminator.discriminator.net.read_out
        before = layer.weight.detach().clone()
        optimizer = torch.optim.SGD(method.discriminator.parameters(), 0.1)
        for _ in range(3):
            rollout = method.rollout(batch())
            optimizer.zero_grad()
            method.discriminator_loss(batch("discriminator"), rollout)["adversarial"].backward()
            optimizer.step()
        turned = 1 - torch.cosine_similarity(layer.weight.detach(), before).item()
        assert (turned > 1e-4) == moves
        assert moves or abs(turned) < 1e-12
