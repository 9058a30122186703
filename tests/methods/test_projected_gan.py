"""Projected GAN: random mixing that is linear, frozen and goes from coarse to fine, and the losses by hand."""

import pytest
import torch
from torch.nn.functional import relu

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws
from sparring.discriminators import Given, ProjectedDiscriminator
from sparring.discriminators.projected import RandomMixing
from sparring.generators import LatentGenerator
from sparring.methods.gan.projected_gan import ProjectedGAN
from sparring.networks import ConvGenerator


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, n, n, dtype=torch.float64, generator=generator) for c, n in ((5, 8), (7, 4), (6, 2))]


def mixing():
    torch.manual_seed(0)
    return RandomMixing([5, 7, 6], 4).double()


def test_every_map_keeps_its_size_and_has_twice_the_channels_of_the_finer_one():
    assert [x.shape for x in mixing()(maps())] == [(2, 4, 8, 8), (2, 8, 4, 4), (2, 16, 2, 2)]


def test_it_is_linear_and_never_trained():
    mix, a, b = mixing(), maps(0), maps(1)
    joined = mix([2 * x - 3 * y for x, y in zip(a, b, strict=True)])
    for found, x, y in zip(joined, mix(a), mix(b), strict=True):
        torch.testing.assert_close(found, 2 * x - 3 * y)
    assert not any(parameter.requires_grad for parameter in mix.parameters())
    inputs = [x.requires_grad_() for x in maps()]
    gradients = torch.autograd.grad(sum(x.square().sum() for x in mix(inputs)), inputs)
    assert all((gradient != 0).flatten(1).all() for gradient in gradients)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_what_is_coarse_reaches_what_is_finer_and_not_the_other_way_round(changed):
    mix, before = mixing(), maps()
    after = [x + (level == changed) for level, x in enumerate(before)]
    differs = [not torch.equal(x, y) for x, y in zip(mix(before), mix(after), strict=True)]
    assert differs == [level <= changed for level in range(3)]


def test_random_convolutions_keep_the_size_of_what_they_mix():
    """Weights of variance 1 / fan-in: a map of unit variance stays one, and the residual adds as much again."""
    torch.manual_seed(0)
    (found,) = RandomMixing([64], 64)([torch.randn(8, 64, 16, 16)])
    assert found[:, :, 1:-1, 1:-1].var().item() == pytest.approx(2, rel=0.15)


def projected(**settings):
    torch.manual_seed(0)
    backbone = SmallConvNet(in_channels=1, widths=[4, 8], pretrain="none")
    return ProjectedDiscriminator(backbone=backbone, width=8, augment="", **settings)


def test_its_losses_by_hand():
    """Hinge over all positions of both maps, no penalty; the heads see the mixed maps, and only they learn."""
    discriminator = projected(mixing=4)
    generator = LatentGenerator(ConvGenerator(latent_dim=3, widths=(8, 8)), latent_dim=3)
    method = ProjectedGAN(generator, discriminator)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rollout = method.rollout(Batch(images, draws=Draws(0, phase="rollout")))
    fake = generator(Draws(0, phase="rollout").normal((4, 3)))

    def by_hand(x):
        mixed = discriminator.mixing(discriminator.backbone.maps(x))
        return torch.cat([head(y).flatten(1) for head, y in zip(discriminator.heads, mixed, strict=True)], 1)

    losses = method.discriminator_loss(Batch(images, draws=Draws(0, phase="d")), rollout)
    assert set(losses) == {"adversarial"}
    expected = relu(1 - by_hand(images)).mean() + relu(1 + by_hand(fake)).mean()
    torch.testing.assert_close(losses["adversarial"], expected)
    loss = method.generator_loss(Batch(images, draws=Draws(0, phase="g")), rollout)["adversarial"]
    torch.testing.assert_close(loss, -by_hand(fake).mean())
    loss.backward()
    assert all(p.grad is not None for p in generator.net.parameters())
    trained = [name for name, p in discriminator.named_parameters() if p.requires_grad]
    assert all(name.startswith("heads.") for name in trained)


def test_a_class_is_projected_on_the_mixed_maps():
    discriminator = projected(mixing=4, num_classes=3)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    first, second = (discriminator(images, Given(labels=torch.tensor(c)), Draws(0)) for c in ([0, 1], [2, 1]))
    assert (first[0] - second[0]).abs().max() > 1e-4
    assert torch.equal(first[1], second[1])
    with pytest.raises(ValueError, match="`mixing=-1` must be at least 1"):
        projected(mixing=-1)
