"""FastGAN: quadrants, gates and decoders against what is known of them, and the losses by hand."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Digits, Draws
from sparring.discriminators import Given, PlainDiscriminator, ReconstructingDiscriminator
from sparring.discriminators.reconstructing import quadrant
from sparring.generators import LatentGenerator
from sparring.methods.gan.fastgan import FastGAN
from sparring.networks import ConvDiscriminator, ConvGenerator, Perceptron
from sparring.networks.conv_generator import SkipExcitation


def reconstructing(size=8, **settings):
    torch.manual_seed(0)
    widths = (8,) * (1 + (min(size) if isinstance(size, list) else size) // 8)
    net = ConvDiscriminator(size=size, widths=widths, **settings)
    given = ["labels"] if "num_classes" in settings else []
    return ReconstructingDiscriminator(discriminator=PlainDiscriminator(net=net, given=given))


def images(n=6):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def fastgan(**settings):
    discriminator = reconstructing()
    generator = LatentGenerator(ConvGenerator(latent_dim=3, widths=(8, 8), excitation=True), latent_dim=3)
    return FastGAN(generator, discriminator, **settings)


def test_map_and_image_have_the_same_quadrant():
    """One bright pixel, and the map in which it lies at the same place, four times smaller."""
    for part, (row, column) in enumerate([(1, 2), (1, 6), (5, 2), (5, 6)]):
        image, small = torch.zeros(4, 1, 8, 8), torch.zeros(4, 3, 4, 4)
        image[:, :, row, column] = small[:, :, row // 2, column // 2] = 1
        seen = [quadrant(x, torch.arange(4)).flatten(1).sum(1) for x in (image, small)]
        expected = torch.eye(4)[part]
        assert torch.equal(seen[0], expected)
        assert torch.equal(seen[1], 3 * expected)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(quadrant(x, torch.tensor([1])), torch.tensor([[[[2.0, 3.0], [6.0, 7.0]]]]))


def test_a_gate_without_weights_halves_and_otherwise_knows_only_its_own_row():
    gate, low, high = SkipExcitation(3, 5), torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    ratio = (gate(low, high) / high).flatten(2)
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))  # one number for a channel
    assert ratio.min() > 0
    assert ratio.max() < 1
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(gate(low, high), high / 2)


@pytest.mark.parametrize("size", [4, 8, 16, [8, 12]])
def test_decoders_make_what_the_discriminator_saw(size):
    discriminator = reconstructing(size)
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(3, 1, height, width)
    assert discriminator(x, Given(), Draws(0)).shape == (3, 2)
    for decoder in discriminator.decoders.values():
        for parameter in decoder.parameters():
            nn.init.zeros_(parameter)
    part = Draws(0).integers(4, (3,))
    expected = 2 * x.abs().mean() + quadrant(x, part).abs().mean()  # of decoders that make nothing
    torch.testing.assert_close(discriminator.reconstruction([x], Draws(0)), expected)


def test_its_losses_by_hand():
    """Margins of 0.9 in the mean: of logits at 0 the two hinges are 1.8; the reconstruction is that of the reals."""
    method = fastgan(reconstruction=2.0)
    rollout = method.rollout(Batch(images(), draws=Draws(0, phase="rollout")))
    with torch.no_grad():
        for net in (method.discriminator.discriminator.net, method.discriminator.halved.net):
            net.read_out.weight.zero_()
            net.read_out.bias.zero_()
    found = []
    for step in range(60):
        losses = method.discriminator_loss(Batch(images(), draws=Draws(0, step=step, phase="d")), rollout)
        assert 1.6 <= losses["adversarial"].item() <= 2
        found.append(losses["adversarial"].item())
    assert sum(found) / 60 == pytest.approx(1.8, abs=0.01)
    error = method.discriminator.reconstruction([images()], Draws(0, step=59, phase="d"))
    torch.testing.assert_close(losses["reconstruction"], 2 * error, rtol=0.3, atol=0)  # other quadrants
    loss = method.generator_loss(Batch(images(), draws=Draws(0, phase="g")), rollout)["adversarial"]
    torch.testing.assert_close(loss, -method.discriminator.logits(rollout.fake, rollout.given).mean())


def test_reconstruction_teaches_the_trunk_and_leaves_the_generator_alone():
    method = fastgan()
    rollout = method.rollout(Batch(images(), draws=Draws(0, phase="rollout")))
    method.discriminator_loss(Batch(images(), draws=Draws(0, phase="d")), rollout)["reconstruction"].backward()
    assert method.discriminator.discriminator.net.read_in.weight.grad is not None
    assert method.discriminator.halved.net.read_in.weight.grad is not None
    assert all(p.grad is not None for p in method.discriminator.decoders.parameters())
    assert all(p.grad is None for p in method.generator.parameters())


def test_the_image_of_another_row():
    """The control: equal rows cost the same, and of two rows each decoder's image is compared with the other."""
    discriminator = reconstructing()
    for x, same in ((images(1).expand(6, -1, -1, -1), True), (images(), False)):
        found = [
            discriminator.reconstruction([x], Draws(0, phase="d"), shuffled=shuffled) for shuffled in (False, True)
        ]
        assert torch.allclose(*found) == same
    for decoder in discriminator.decoders.values():
        nn.init.zeros_(decoder.layers[-1].weight)
        nn.init.zeros_(decoder.layers[-1].bias)
    wholes = [discriminator.decoders[name] for name in ("whole", "halved")]
    made = [decoder.register_forward_hook(lambda *_: images(2)) for decoder in wholes]
    found = [discriminator.reconstruction([images(2)], Draws(0, phase="d"), shuffled=s) for s in (False, True)]
    apart = (images(2) - images(2).flip(0)).abs().mean()
    empty = [e - 2 * s * apart for e, s in zip(found, (0, 1), strict=True)]
    assert all(0 < e < 1.2 for e in empty)  # what is left is the quadrant of nothing, about 0.8
    assert found[1] > found[0] + apart
    [hook.remove() for hook in made]


def test_it_measures_how_much_higher_training_images_are_scored():
    data, method = Digits(), fastgan()
    method.discriminator.logits = lambda features, given: features[0].mean((1, 2, 3))
    held = data.holdout().images(len(data.holdout()))
    expected = data.images(960).mean() - held[torch.arange(960) % len(held)].mean()
    found = method.measures(method.generator, data, Draws(0))
    assert found == {"overfitting": pytest.approx(expected.item(), abs=1e-6)}


def test_without_reconstruction_the_decoders_rest():
    method = fastgan(reconstruction=0.0)
    rollout = method.rollout(Batch(images(), draws=Draws(0, phase="rollout")))
    losses = method.discriminator_loss(Batch(images(), draws=Draws(0, phase="d")), rollout)
    assert set(losses) == {"adversarial"}
    assert not any(p.requires_grad for p in method.discriminator.decoders.parameters())


def test_both_sizes_are_conditioned_on_the_class():
    discriminator = reconstructing(num_classes=3)
    first, second = (discriminator(images(2), Given(labels=torch.tensor(c)), Draws(0)) for c in ([0, 1], [2, 1]))
    assert ((first[0] - second[0]).abs() > 1e-6).all()
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ReconstructingDiscriminator(discriminator=PlainDiscriminator(net=Perceptron())),
            "Perceptron: decoders",
        ),
        (lambda: reconstructing(5), "5x5 pixels have no half size"),
        (lambda: fastgan(reconstruction=-1), "`reconstruction=-1` must be 0 or more"),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
