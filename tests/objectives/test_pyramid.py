"""Laplacian pyramids: they can be undone, see nothing in equal images, and weigh what they say."""

import pytest
import torch

from sparring.objectives.pyramid import laplacian_pyramid, of_pyramid, pyramid_distance


def images(size, seed=0):
    return torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("size", "levels"), [((8, 8), 4), ((12, 8), 3), ((7, 7), 1), ((1, 1), 1)])
def test_a_pyramid_can_be_undone(size, levels):
    made = laplacian_pyramid(images(size))
    assert len(made) == levels
    assert all(a.shape[-1] == 2 * b.shape[-1] for a, b in zip(made, made[1:], strict=False))
    torch.testing.assert_close(of_pyramid(made), images(size))


def test_equal_images_have_no_distance_and_a_constant_lies_in_the_smallest_one():
    x = images((8, 8))
    assert pyramid_distance(x, x).abs().max() == 0
    torch.testing.assert_close(pyramid_distance(x + 0.25, x), torch.full((3,), 0.25, dtype=torch.float64))
    smallest = laplacian_pyramid(x + 0.25)[-1] - laplacian_pyramid(x)[-1]
    torch.testing.assert_close(smallest, torch.full_like(smallest, 0.25))


def test_each_level_counts_with_its_pixels_times_two_to_the_two_j():
    x, y = images((4, 4)), images((4, 4), seed=1)
    levels = list(zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True))
    expected = sum(4**j * (a - b).abs().flatten(1).sum(1) for j, (a, b) in enumerate(levels)) / x[0].numel()
    torch.testing.assert_close(pyramid_distance(x, y), expected)
