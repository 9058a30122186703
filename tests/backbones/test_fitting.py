"""Learning without labels: the contrastive loss against closed forms, the views, and what is left alone."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import SmallConvNet, fit_self_supervised, nt_xent
from sparring.backbones.fitting import random_views
from sparring.data import Digits, StoredImages
from sparring.discriminators import StructureDiscriminator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("b", [2, 5])
def test_nt_xent_by_hand(b):
    """Equal rows: ln(2B - 1). Orthogonal images, equal views: ln(1 + (2B - 2) exp(-1 / tau))."""
    equal = torch.ones(2 * b, 3, dtype=torch.float64)
    assert nt_xent(equal, 0.5).item() == pytest.approx(math.log(2 * b - 1))
    views = torch.eye(b, dtype=torch.float64)
    apart = torch.cat([3 * views, 7 * views])  # lengths do not matter
    assert nt_xent(apart, 0.5).item() == pytest.approx(math.log(1 + (2 * b - 2) * math.exp(-2)))
    swapped = torch.cat([views, views.roll(1, 0)])  # the partner at cosine 0, another image at 1
    expected = 2 + math.log(1 + (2 * b - 2) * math.exp(-2))
    assert nt_xent(swapped, 0.5).item() == pytest.approx(expected)


def test_nt_xent_does_not_depend_on_the_order_of_the_images():
    z, order = torch.randn(2, 6, 4, dtype=torch.float64), torch.randperm(6)
    torch.testing.assert_close(nt_xent(z[:, order].flatten(0, 1), 0.2), nt_xent(z.flatten(0, 1), 0.2))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_random_seeded_and_not_mirrored(channels):
    images = torch.full((400, channels, 12, 12), -0.5)
    images[..., :4] = 0.5  # light on the left
    state = torch.get_rng_state()
    views = random_views(images, generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(views, random_views(images, generator()))
    assert views.shape == images.shape
    assert not torch.equal(views[:200], views[200:])
    left, right = views[..., :4].mean((1, 2, 3)), views[..., -4:].mean((1, 2, 3))
    assert (left > right - 0.1).all()
    assert (left > right + 0.2).float().mean() > 0.8


def test_views_of_a_plain_image_change_its_light_and_noise_only():
    views = random_views(torch.full((500, 1, 8, 8), 0.2), generator())
    light = views.mean((1, 2, 3)) - 0.2
    assert light.abs().max() < 0.35
    assert 0.15 < light.std() < 0.2  # uniform on +-0.3: 0.173
    assert 0.04 < views.std((1, 2, 3)).mean() < 0.06  # uniform on 0 to 0.1: 0.05


def small_net(**settings):
    return SmallConvNet(in_channels=1, widths=(8, 16), pretrain="self-supervised", **settings)


def test_learning_without_labels_is_repeatable_and_leaves_flags_and_generator_alone():
    images = Digits().images(96)
    nets = [small_net(epochs=2), small_net(epochs=2)]
    nets[0].stages[0].conv.bias.requires_grad_(False)
    nets[0].eval()
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        with torch.no_grad():  # a caller's no_grad does not stop the training
            assert net.prepare(images, None)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in net.parameters())
    assert not nets[0].training
    assert not nets[0].stages[0].conv.bias.requires_grad
    for a, b, start in zip(*(net.parameters() for net in (*nets, small_net())), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, start)
    assert not nets[0].prepare(images, None)  # prepared already
    assert 0 <= nets[0].accuracy <= 1
    again = small_net()
    again.load_state_dict(nets[0].state_dict())
    assert not again.prepare(images, None)


def neighbours_right(net, known, labels, asked, truth):
    with torch.no_grad():
        known, asked = (F.normalize(net.features(x), dim=1) for x in (known, asked))
    return (labels[(asked @ known.T).argmax(1)] == truth).float().mean().item()


def test_digits_come_apart_without_their_labels():
    """A few seconds are enough for features in which the nearest neighbour is more often the same digit."""
    data, held = Digits(), Digits("validation")
    images, labels, asked, truth = data.images(), data.labels(), held.images(), held.labels()
    net = small_net()
    start = neighbours_right(net, images, labels, asked, truth)
    found = fit_self_supervised(net, images[:512], validation=images[512:612], epochs=20, batch_size=128, lr=1e-2)
    assert neighbours_right(net, images, labels, asked, truth) > start + 0.1
    assert found > 0.1  # chance is 1 of 199


def test_too_few_images_are_refused_and_labels_are_not_needed():
    with pytest.raises(ValueError, match="20 images or more, a tenth of which is held out, and got 19"):
        small_net().prepare(torch.zeros(19, 1, 8, 8), None)
    with pytest.raises(ValueError, match="self-supervised"):
        SmallConvNet(in_channels=1, num_classes=3).prepare(torch.zeros(20, 1, 8, 8), None)


def test_the_result_is_the_start_of_the_structure_discriminator():
    discriminator = StructureDiscriminator(encoder=small_net(epochs=1), anchor=1.0)
    discriminator.prepare(StoredImages(Digits().images(64)))
    assert discriminator.encoder.accuracy is not None
    assert discriminator.anchor_penalty() == 0
    assert discriminator.encoder.name == "convnet-8-16-self-supervised"
