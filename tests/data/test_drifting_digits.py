"""Drifting digits: each frame is the one before, moved; the displacement is found again; what is refused."""

import pytest
import torch

from sparring.data import DriftingDigits
from sparring.data.drifting import displacements, moved, unsteadiness


def test_each_frame_is_the_frame_before_moved_around_the_edges_by_the_same_step():
    clips = DriftingDigits(num_samples=50).images()
    assert clips.shape == (50, 8, 12, 12)
    steps = displacements(clips)
    for clip, step in zip(clips, steps, strict=True):
        assert (step == step[0]).all()
        assert step[0].abs().max() in (1, 2)
        for before, after in zip(clip, clip[1:], strict=False):
            assert torch.equal(before.roll(tuple(step[0].tolist()), (0, 1)), after)
    assert len(steps[:, 0].unique(dim=0)) > 15
    assert (unsteadiness(clips) == 0).all()


def test_a_digit_is_put_where_it_is_said_on_black():
    digit = torch.arange(64, dtype=torch.float32).view(1, 1, 8, 8) / 64
    clip = moved(digit, torch.tensor([[[0, 0], [3, 10]]]), 12)[0]
    assert torch.equal(clip[0, :8, :8], digit[0, 0])
    assert (clip[0, 8:] == -1).all()
    assert torch.equal(clip[1], clip[0].roll((3, 10), (0, 1)))


def test_displacements_lie_around_zero_and_unsteadiness_is_their_variance():
    random = torch.Generator().manual_seed(0)
    frame = torch.randn(12, 12, generator=random)
    places = [0, 2, 1, 8]  # steps 2, -1, 7 = -5
    clip = torch.stack([frame.roll((place, 0), (0, 1)) for place in places])[None]
    assert displacements(clip)[0].tolist() == [[2, 0], [-1, 0], [-5, 0]]
    assert unsteadiness(clip).item() == pytest.approx(torch.tensor([0.0, -3.0, 5.0]).var(unbiased=False).item())
    jumping = DriftingDigits(num_samples=50, jumps=True)
    assert unsteadiness(jumping.images()).mean() > 5


def test_what_is_held_out_is_of_other_digits_and_labels_are_the_digits():
    data = DriftingDigits(num_samples=200, num_frames=1, size=8)
    held = data.holdout()
    assert held.image_shape == data.image_shape == (1, 8, 8)
    assert data.labels().unique().tolist() == list(range(10))
    assert held.name == "drifting:holdout"

    def heaps(images):
        return {tuple(sorted(image.flatten().tolist())) for image in images}

    assert not heaps(data.images()) & heaps(held.images())


@pytest.mark.parametrize("settings", [dict(num_frames=0), dict(num_samples=0), dict(size=7)])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}={next(iter(settings.values()))}`"):
        DriftingDigits(**settings)
