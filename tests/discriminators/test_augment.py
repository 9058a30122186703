"""DiffAugment: what each policy does to known images."""

import pytest
import torch

from sparring.data import Draws
from sparring.discriminators import DiffAugment
from sparring.discriminators.augment import crop_or_resize


class FixedDraws:
    """Every uniform number is `uniform`, every integer is `integer(high)`."""

    def __init__(self, uniform=0.5, integer=lambda high: high // 2):
        self.number, self.integer = uniform, integer

    def uniform(self, shape):
        return torch.full(tuple(shape), self.number)

    def integers(self, high, shape):
        return torch.full(tuple(shape), self.integer(high))


def test_empty_policy_is_identity():
    x = torch.randn(2, 3, 8, 8)
    assert DiffAugment(policy="")(x, FixedDraws()) is x


def test_unknown_word_is_an_error():
    with pytest.raises(ValueError, match="colour"):
        DiffAugment(policy="colour,cutout")


@pytest.mark.parametrize("policy", ["color", "translation"])
def test_middle_draws_are_identity(policy):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(DiffAugment(policy=policy)(x, FixedDraws()), x)


def test_color_by_hand():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 2, 1, 2)  # two channels, two pixels
    out = DiffAugment(policy="color")(x, FixedDraws(uniform=1.0))
    bright = x + 0.5
    grey = bright.mean(1, keepdim=True)
    saturated = grey + 2 * (bright - grey)
    torch.testing.assert_close(out, 2.0 + 1.5 * (saturated - 2.0))


def test_saturation_leaves_grey_images_alone():
    x = torch.randn(2, 1, 8, 8)
    expected = x.mean((1, 2, 3), keepdim=True) + 1.5 * (x - x.mean((1, 2, 3), keepdim=True)) + 0.5
    torch.testing.assert_close(DiffAugment(policy="color")(x, FixedDraws(uniform=1.0)), expected)


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (28, 4), (32, 4)])
def test_translation_moves_a_pixel_and_fills_with_zero(size, reach):
    x = torch.ones(1, 1, size, size)
    x[0, 0, 3, 4] = 7.0
    out = DiffAugment(policy="translation")(x, FixedDraws(integer=lambda high: high - 1))
    assert out[0, 0, 3 + reach, 4 + reach] == 7.0
    assert (out[0, 0, :reach] == 0).all()
    assert (out[0, 0, :, :reach] == 0).all()
    assert (out[0, 0, reach:, reach:] != 0).all()


def test_translation_to_the_other_side():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    out = DiffAugment(policy="translation")(x, FixedDraws(integer=lambda high: 0))
    torch.testing.assert_close(out[0, 0, :7, :7], x[0, 0, 1:, 1:])
    assert out[0, 0, 7].abs().sum() == out[0, 0, :, 7].abs().sum() == 0


def test_cutout_in_the_middle_is_a_square_of_half_the_side():
    out = DiffAugment(policy="cutout")(torch.ones(1, 1, 8, 8), FixedDraws())
    assert (out[0, 0, 2:6, 2:6] == 0).all()
    assert out.sum() == 64 - 16


def test_cutout_never_covers_more_than_its_square(draws):
    out = DiffAugment(policy="cutout")(torch.ones(64, 1, 8, 8), draws(64))
    zeros = (out == 0).sum((1, 2, 3))
    assert zeros.max() == 16
    assert zeros.min() >= 4  # a centre in the corner leaves a quarter of the square


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (1, 28, 28), (3, 5, 7), (2, 1, 1)])
def test_shape_dtype_and_gradient(shape, draws):
    x = torch.randn(4, *shape, dtype=torch.float64, requires_grad=True)
    out = DiffAugment()(x, draws(4))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert torch.autograd.gradcheck(lambda x: DiffAugment()(x, draws(2)), x[:2, :, :5, :5].detach().requires_grad_())


def test_rows_are_augmented_independently(draws):
    x = torch.randn(1, 3, 8, 8).expand(6, -1, -1, -1)
    joint = DiffAugment()(x, draws(6))
    alone = torch.cat([DiffAugment()(x[i : i + 1], draws([i])) for i in range(6)])
    torch.testing.assert_close(joint, alone)
    assert all(not torch.equal(joint[i], joint[j]) for i in range(6) for j in range(i))


def test_large_images_are_cropped_or_resized():
    """Half of them are windows of the image, found at the drawn place; the others are the whole image, smaller."""
    x = torch.rand(64, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    small = crop_or_resize(x, 8, 0.5, Draws(0))
    draws = Draws(0)
    cropped, top, left = draws.uniform((64,)) < 0.5, draws.integers(13, (64,)), draws.integers(21, (64,))
    assert 20 < cropped.sum() < 44
    whole = torch.nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    for i in range(64):
        window = x[i, :, top[i] : top[i] + 8, left[i] : left[i] + 8]
        torch.testing.assert_close(small[i], window if cropped[i] else whole[i])


def test_a_crop_keeps_detail_that_resizing_removes():
    stripes = torch.ones(8, 1, 64, 64)
    stripes[:, :, ::2] = -1
    assert crop_or_resize(stripes, 16, 1.0, Draws(0)).std() > 0.99
    assert crop_or_resize(stripes, 16, 1e-9, Draws(0)).std() < 0.1


def test_images_that_are_not_larger_are_left_alone():
    for shape in ((2, 1, 8, 8), (2, 1, 7, 30)):
        x = torch.rand(shape)
        assert crop_or_resize(x, 8, 0.5, Draws(0)) is x
    x = torch.rand(2, 1, 9, 9)
    assert crop_or_resize(x, 8, 0.0, Draws(0)) is x


def test_gradient_passes_through_crops():
    x = torch.rand(4, 1, 16, 16, requires_grad=True)
    crop_or_resize(x, 8, 1.0, Draws(0)).sum().backward()
    assert x.grad.sum((1, 2, 3)).tolist() == [64.0] * 4
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
