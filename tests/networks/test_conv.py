"""The convolutional generator and discriminator: sizes that follow the images, and what each output depends on."""

import pytest
import torch
from torch import nn

from sparring.data import Draws
from sparring.discriminators import Given, PlainDiscriminator
from sparring.networks import ConvDiscriminator, ConvGenerator
from sparring.networks.conv_discriminator import Spread
from sparring.networks.residual import Residual, resolutions


def discriminator(**settings):
    """A small one, away from its start at which the blocks are the identity."""
    torch.manual_seed(0)
    net = ConvDiscriminator(**{"size": 8, "widths": (8, 8), "groups": 4} | settings).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def images(n=4, channels=1):
    return torch.randn(n, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


BESIDE = {
    "labels": (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 2, 0])),
    "t": (torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.5, 0.2, 0.3, 0.4])),
    "x_t": (images(), torch.cat([images()[1:2], images()[1:]])),
}
BUILT = {"labels": {"num_classes": 3}, "t": {"time": True}, "x_t": {"neighbour": True}}


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        (4, [(4, 4)]),
        (8, [(4, 4), (8, 8)]),
        (16, [(4, 4), (8, 8), (16, 16)]),
        (28, [(7, 7), (14, 14), (28, 28)]),
        ([8, 24], [(4, 12), (8, 24)]),
        (15, [(15, 15)]),
        (1, [(1, 1)]),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_follow_the_images(size, maps, channels):
    assert resolutions(size) == maps
    images = ConvGenerator(latent_dim=4, out_channels=channels, size=size)(torch.randn(3, 4))
    assert images.shape == (3, channels, *maps[-1])
    logits = ConvDiscriminator(in_channels=channels, size=size)(images)
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32


def test_a_block_starts_as_the_identity_and_scales_its_weights_by_the_depth():
    torch.manual_seed(0)
    block, x = Residual(16, 4, depth=16), torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)
    torch.manual_seed(0)
    torch.testing.assert_close(Residual(16, 4, depth=1).first.weight, 2 * block.first.weight)
    assert block.first.weight.std().item() == pytest.approx(0.5 * (2 / (1 + 0.2**2) / 16) ** 0.5, rel=0.15)


@pytest.mark.parametrize("name", BESIDE)
def test_a_condition_changes_the_logit_of_that_row_only(name):
    net, x = discriminator(**BUILT[name]), images()
    before, after = (net(x, **{name: value}) for value in BESIDE[name])
    assert (before[0] - after[0]).abs() > 1e-6
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=f"is conditioned on `{name}`, and none was given"):
        net(x)
    with pytest.raises(ValueError, match=f"`{name}`: the ConvDiscriminator is not conditioned on it"):
        discriminator()(x, **{name: BESIDE[name][0]})


@pytest.mark.parametrize("name", BESIDE)
def test_the_plain_discriminator_hands_on_what_is_given(name):
    net = discriminator(**BUILT[name])
    discriminator_of_it = PlainDiscriminator(net=net, given=[name])
    value = BESIDE[name][0]
    assert torch.equal(discriminator_of_it(images(), Given(**{name: value}), Draws(0)), net(images(), **{name: value}))
    with pytest.raises(ValueError, match=f"know no `{name}`"):
        discriminator_of_it(images(), Given(), Draws(0))


def test_the_projection_on_a_class():
    """The logit is linear in the embedding of the row's label: `w f + b + <e, f> / sqrt(width)`."""
    net, labels = discriminator(num_classes=3), BESIDE["labels"][0]
    features = net.features(images())
    expected = net.read_out(features)[:, 0] + (features * net.class_embedding.weight[labels]).sum(1) / 8**0.5
    torch.testing.assert_close(net(images(), labels=labels), expected)


def test_the_spread_of_a_group():
    """Of rows a and -a it is sqrt(a^2 + 1e-8), of equal rows 1e-4; each group has its own."""
    a = torch.full((1, 2, 3, 3), 0.5, dtype=torch.float64)
    made = Spread(2)(torch.cat([a, -a, a, a]))
    assert made.shape == (4, 3, 3, 3)
    torch.testing.assert_close(made[:2, 2], torch.full((2, 3, 3), (0.25 + 1e-8) ** 0.5, dtype=torch.float64))
    torch.testing.assert_close(made[2:, 2], torch.full((2, 3, 3), 1e-4, dtype=torch.float64))


def test_the_spread_couples_a_group_and_nothing_else():
    plain, spread = discriminator(), discriminator(spread=2)
    x = images()
    torch.testing.assert_close(torch.cat([plain(row[None]) for row in x]), plain(x), rtol=0, atol=1e-12)
    parts = torch.cat([spread(x[:2]), spread(x[2:])])
    torch.testing.assert_close(parts, spread(x), rtol=0, atol=1e-12)
    assert (spread(x.roll(1, 0)).roll(-1, 0) - spread(x)).abs().max() > 1e-6


def test_rows_that_fill_no_groups_are_refused():
    discriminator_of_it = PlainDiscriminator(net=discriminator(spread=4))
    discriminator_of_it.check(8)
    with pytest.raises(ValueError, match="`spread=4` must divide the 6 rows"):
        discriminator_of_it.check(6)
    with pytest.raises(ValueError, match="`spread=1`: a group needs two rows"):
        discriminator(spread=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (8,)}, "`size=8`, `widths=.8.`: 2 widths"),
        ({"groups": 3}, "`groups=3` must divide"),
        ({"size": 0}, "`size=0` must be a number of pixels"),
        ({"size": [8, 8, 8]}, "must be a number of pixels, or height and width"),
    ],
)
@pytest.mark.parametrize("kind", [ConvGenerator, ConvDiscriminator])
def test_sizes_that_do_not_fit_are_refused(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"size": 8, "widths": (8, 8), "groups": 4} | settings)
