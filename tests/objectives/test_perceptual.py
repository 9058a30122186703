"""The distance in features: zero, its largest, what it does not see."""

import torch

from sparring.objectives import feature_distance


def test_equal_maps_are_0_apart_orthogonal_ones_2_and_opposite_ones_4_a_map():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    one, other = x.clone(), x.clone()
    one[:, 0], other[:, 1] = 5.0, 0.2
    for maps, expected in (([one], 0.0), ([other], 2.0), ([-one], 4.0)):
        torch.testing.assert_close(feature_distance([one], maps).item(), expected)
    torch.testing.assert_close(feature_distance([one, one], [3 * one, other]).item(), 2.0)  # scale is not seen


def test_half_of_the_positions_count_half():
    one = torch.ones(1, 1, 2, 2)
    other = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).view(1, 1, 2, 2)
    assert feature_distance([one], [other]).item() == 2.0
