"""Views of the plane: line integrals of what is known, opacity by hand, a quarter turn, all poses."""

import math

import pytest
import torch

from sparring.rollout.views import angle_of, line_integrals, views


def blob(n=32, x=0.0, y=0.0, width=0.15):
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    return torch.exp(-((line[None, :] - x) ** 2 + (line[:, None] - y) ** 2) / (2 * width**2))[None, None]


@pytest.mark.parametrize("s", [0.0, 0.4, 1.7])
def test_matter_of_constant_density_over_unit_length_is_as_opaque_as_the_sheet_says(s):
    """1 - e^-s; .8173 for 1.7."""
    full = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    seen = views(full, torch.zeros(1, dtype=torch.float64), s)
    torch.testing.assert_close((seen + 1) / 2, torch.full((1, 8, 1, 1), 1 - math.exp(-s), dtype=torch.float64))
    if s == 1.7:
        assert (seen[0, 0].item() + 1) / 2 == pytest.approx(0.8173, abs=1e-4)
    assert (views(-full, torch.zeros(1), s) == -1).all()


def test_at_angle_zero_columns_are_summed_and_at_a_quarter_turn_rows():
    image = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero, quarter = torch.zeros(3), torch.full((3,), math.pi / 2, dtype=torch.float64)
    torch.testing.assert_close(line_integrals(image, zero), image.mean(2))
    torch.testing.assert_close(line_integrals(image, quarter), image.mean(3))


def test_what_is_round_looks_the_same_from_all_poses_and_what_is_not_does_not():
    angles = angle_of(torch.arange(12), 12)
    seen = line_integrals(blob().expand(12, -1, -1, -1), angles)
    torch.testing.assert_close(seen, seen[:1].expand_as(seen), rtol=0, atol=2e-3)
    bar = torch.zeros(12, 1, 32, 32, dtype=torch.float64)
    bar[:, :, 14:18] = 1
    assert line_integrals(bar, angles)[:, 0, 16].std() > 0.1


def test_a_shifted_blob_moves_on_the_line_by_the_cosine_of_the_angle():
    angles = angle_of(torch.arange(12), 12)
    seen = line_integrals(blob(x=0.2, width=0.08).expand(12, -1, -1, -1), angles)[:, 0]
    line = (torch.arange(32, dtype=torch.float64) + 0.5) / 32 - 0.5
    centre = (seen * line).sum(1) / seen.sum(1)
    torch.testing.assert_close(centre, 0.2 * angles.cos(), rtol=0, atol=0.01)


def test_poses_are_even_over_half_a_turn():
    assert angle_of(torch.tensor([0, 3, 9]), 12).tolist() == pytest.approx([0, math.pi / 4, 3 * math.pi / 4])
