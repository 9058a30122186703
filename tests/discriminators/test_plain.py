"""A network as a discriminator: what its features are, clipped weights, and what is refused."""

import pytest
import torch
from torch import nn

from sparring.data import Draws
from sparring.discriminators import Given, PlainDiscriminator
from sparring.networks import Perceptron


def perceptron():
    torch.manual_seed(0)
    return Perceptron(in_features=16, width=8, depth=2)


def images(n=5):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_features_are_the_images_and_the_logits_are_the_networks():
    net = perceptron()
    discriminator, x = PlainDiscriminator(net=net), images()
    (features,) = discriminator.features(x, Given(), Draws(0))
    assert features is x
    assert torch.equal(discriminator(x, Given(), Draws(0)), net(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(x, Given(), Draws(0)).dtype == torch.float32


def test_augmented_images_follow_the_draws():
    discriminator = PlainDiscriminator(net=perceptron(), augment="translation,cutout")
    first, second, other = (discriminator.features(images(), Given(), Draws(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_weights_are_clipped_after_an_update():
    discriminator = PlainDiscriminator(net=perceptron(), clip=0.05)
    before = [p.detach().clone() for p in discriminator.parameters()]
    assert max(p.abs().max() for p in before) > 0.05
    discriminator.after_update()
    for p, old in zip(discriminator.parameters(), before, strict=True):
        assert torch.equal(p, old.clamp(-0.05, 0.05))
    frozen = PlainDiscriminator(net=perceptron(), clip=0.05)
    held = next(frozen.parameters()).requires_grad_(False)
    frozen.after_update()
    assert torch.equal(held, before[0])
    assert all(p.abs().max() <= 0.05 for p in frozen.parameters() if p is not held)
    free = PlainDiscriminator(net=perceptron())
    free.after_update()
    assert all(torch.equal(p, old) for p, old in zip(free.parameters(), before, strict=True))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="`clip=0` must be above 0"):
        PlainDiscriminator(net=perceptron(), clip=0)
    with pytest.raises(ValueError, match="Sequential has batch normalisation"):
        PlainDiscriminator(net=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
