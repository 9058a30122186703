"""Growing networks: stages, equalised layers, pixel norm, and what fades into what."""

import pytest
import torch
from torch import nn

from sparring.networks import GrowingDiscriminator, GrowingGenerator
from sparring.networks.growing import EqualConv2d, Stage, doubled, faded, pixel_norm


def generator(stage, **settings):
    torch.manual_seed(0)
    net = GrowingGenerator(latent_dim=3, size=16, widths=(8, 8, 8), **settings).double()
    net.stage.value = stage
    return net


def discriminator(stage, **settings):
    torch.manual_seed(0)
    net = GrowingDiscriminator(size=16, widths=(8, 8, 8), **settings).double()
    net.stage.value = stage
    return net


def latents(n=4):
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("value", "level", "share"), [(0, 0, 1), (0.25, 1, 0.25), (1, 1, 1), (1.5, 2, 0.5), (2, 2, 1), (7, 2, 1)]
)
def test_a_stage_is_a_level_and_its_share(value, level, share):
    stage = Stage(2)
    stage.value = value
    assert (stage.level, stage.share) == (level, share)
    copy = Stage(2)
    copy.load_state_dict(stage.state_dict())
    assert copy.value == stage.value


@pytest.mark.parametrize("level", [0, 1])
def test_the_start_of_a_doubling_is_the_network_before_it_bit_for_bit(level):
    """A share of a millionth is one, and at 0 it is the old image, repeated."""
    before, z = generator(level), latents()
    image = before(z)
    assert image.shape == (4, 1, 16, 16)
    after = generator(level + 1)
    old = before.draw[level]  # the last that draws
    assert torch.equal(old.weight, after.draw[level].weight)
    after.stage.millionths.fill_(level * 1_000_000 + 1)
    assert (after(z) - image).abs().max() < 1e-4
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(faded(doubled(x), torch.randn(2, 1, 8, 8, dtype=torch.float64), 0.0), doubled(x))
    assert torch.equal(faded(x, 3 * x, 1.0), 3 * x)


def test_what_is_drawn_is_the_weighted_sum_of_two_sizes():
    z, half = latents(), generator(0.5)
    old, new = generator(0)(z), generator(1)(z)
    torch.testing.assert_close(half(z), 0.5 * old + 0.5 * new)
    image = generator(1)(z)
    assert torch.equal(image, doubled(image[:, :, ::2, ::2]))  # of 8x8, each pixel four times


@pytest.mark.parametrize("level", [0, 1])
def test_the_discriminator_starts_a_doubling_as_it_was(level):
    x = torch.randn(4, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before, after = discriminator(level), discriminator(level)
    after.stage.millionths.fill_(level * 1_000_000 + 1)
    expected = before(before.stage.at_level(x))
    torch.testing.assert_close(after(after.stage.at_level(x)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="the present level sees"):
        after(x[:, :, :2, :2])


def test_reals_are_blended_as_the_fakes_are_and_once_is_enough():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    stage = Stage(2)
    stage.value = 1.25
    small = doubled(torch.nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(stage.at_level(x, blend=True), 0.75 * small + 0.25 * x)
    assert torch.equal(stage.at_level(x), x)
    stage.value = 2.0
    assert torch.equal(stage.at_level(x, blend=True), x)  # nothing is left to blend
    stage.value = 0.0
    assert torch.equal(stage.at_level(x, blend=True), torch.nn.functional.avg_pool2d(x, 4))


def test_equalised_layers_keep_the_variance_and_pixel_norm_the_length():
    torch.manual_seed(0)
    layer = EqualConv2d(64, 64, 3, gain=1.0, padding=1)
    assert layer.weight.std().item() == pytest.approx(1, rel=0.02)
    out = layer(torch.randn(8, 64, 16, 16))[:, :, 1:-1, 1:-1]
    assert out.var().item() == pytest.approx(1, rel=0.05)
    x = pixel_norm(torch.randn(2, 9, 3, 3))
    torch.testing.assert_close(x.square().sum(1), torch.full((2, 3, 3), 9.0), rtol=1e-5, atol=0)


def test_layers_of_later_stages_take_no_part():
    net = generator(0)
    net(latents()).sum().backward()
    learned = {name for name, p in net.named_parameters() if p.grad is not None}
    assert "draw.0.weight" in learned
    assert not any(name.startswith(("second.", "first.1", "draw.1")) for name in learned)


def test_equal_rows_have_no_spread_and_groups_know_each_other_only():
    net = discriminator(2, spread=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(4, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.cat([net(x[:2]), net(x[2:])]), net(x))
    assert (net(x[[0, 2, 1, 3]])[[0, 2, 1, 3]] - net(x)).abs().max() > 1e-6
    assert discriminator(2, spread=0)(x[:3]).shape == (3,)
