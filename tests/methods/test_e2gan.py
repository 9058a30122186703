"""E2GAN: losses by hand, adapters on a base within their share, what is shipped, and what is refused."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Digits, Draws, Edited
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator, load_generator
from sparring.methods import E2GAN
from sparring.networks import ConvDiscriminator, EditNet, Perceptron


def generator(seed=0, width=8):
    torch.manual_seed(seed)
    return LatentGenerator(EditNet(8, width=width), 1)


def e2gan(made=None, **settings):
    torch.manual_seed(1)
    net = ConvDiscriminator(1, 8, [8, 8], neighbour=True)
    return E2GAN(made or generator(), PlainDiscriminator(net=net, given=["x_t"]), **settings)


def batch(n=6):
    data = Edited("digits", "thicken")
    return Batch(data.images(n), draws=Draws(0, phase="rollout"), source=data.source_images(n))


@pytest.fixture
def base(tmp_path):
    assert generator(5).save(tmp_path / "base")
    return str(tmp_path / "base")


def test_its_losses_by_hand():
    method, given = e2gan(reconstruction_weight=7.0), batch()
    rollout = method.rollout(given)
    made = method.generator.net(given.source, source=given.source)
    real, fake = (method.discriminator.net(x, x_t=given.source) for x in (given.images, made))
    losses = method.discriminator_loss(given, rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    losses = method.generator_loss(given, rollout)
    torch.testing.assert_close(losses["reconstruction"], 7.0 * (made - given.images).abs().mean())
    torch.testing.assert_close(losses["adversarial"], softplus(-fake).mean())


@pytest.mark.parametrize("searched", [True, False])
def test_adapters_are_a_share_of_a_base_and_what_is_shipped_holds_them(base, searched, tmp_path):
    method, source = e2gan(base=base, share=0.3, searched=searched), batch().source
    expected = load_generator(base).sample(6, sources=source)
    method.size_for(Edited("digits", "thicken"))
    total = sum(parameter.numel() for parameter in load_generator(base).net.parameters())
    trained = [parameter for parameter in method.generator.parameters() if parameter.requires_grad]
    assert 0 < sum(parameter.numel() for parameter in trained) <= 0.3 * total
    assert all(parameter.grad is None for parameter in method.parameters())
    torch.testing.assert_close(method.generator.sample(6, sources=source), expected)
    for parameter in trained:
        parameter.data += 0.05
    moved = method.generator.sample(6, sources=source)
    assert (moved - expected).abs().max() > 0.01
    assert method.generator.save(tmp_path / "pipe")
    torch.testing.assert_close(load_generator(tmp_path / "pipe").sample(6, sources=source), moved)


def test_searched_ranks_are_the_same_when_a_run_goes_on(base):
    names = []
    for _ in range(2):
        method = e2gan(base=base, share=0.1)
        method.size_for(Edited("digits", "thicken"))
        names.append({name: p.shape for name, p in method.generator.named_parameters() if p.requires_grad})
    assert names[0] == names[1]


def test_without_a_base_or_with_all_weights_nothing_is_frozen(base):
    for settings in (dict(), dict(base=base, share=1.0)):
        method = e2gan(**settings)
        method.size_for(Edited("digits", "thicken"))
        assert all(parameter.requires_grad for parameter in method.generator.parameters())
    assert torch.equal(method.generator.net.to_image.weight, load_generator(base).net.to_image.weight)


def test_what_cannot_be_is_one_line(base):
    with pytest.raises(ValueError, match=r"`share=0` must lie in \(0, 1\]"):
        e2gan(share=0)
    with pytest.raises(ValueError, match="has other layers than this EditNet: give a run of e2gan"):
        e2gan(generator(width=12), base=base)
    with pytest.raises(ValueError, match="Perceptron takes no source image: use sparring.networks.EditNet"):
        e2gan(LatentGenerator(Perceptron(out_shape=[1, 8, 8]), 2))
    with pytest.raises(ValueError, match=r"`share=0.0001`: \d+ parameters are too few for any adapter"):
        e2gan(base=base, share=1e-4).size_for(Edited("digits", "thicken"))
    with pytest.raises(ValueError, match="`digits` has no sources: give pairs"):
        e2gan(base=base).size_for(Digits())
