"""Edited images: each edit on a picture whose answer is known, sources, halves without pairs, and what is refused."""

import pytest
import torch

from sparring.data import Digits, Edited, UnpairedEdits
from sparring.data.edits import edited


def test_each_edit_of_a_step_and_of_a_point():
    step = torch.ones(1, 1, 5, 5)
    step[..., :2] = -1
    found = edited(step, "edges", torch.Generator())
    assert torch.equal(found[0, 0], torch.tensor([-1.0, 1.0, 1.0, -1.0, -1.0]).expand(5, 5))
    weak = edited(step / 4, "edges", torch.Generator())  # a quarter of the step: 2 of 8
    assert torch.equal(weak[0, 0, 0], torch.tensor([-1.0, -0.5, -0.5, -1.0, -1.0]))
    assert torch.equal(edited(step.mT, "edges", torch.Generator()), found.mT)
    assert torch.equal(edited(step, "invert", torch.Generator()), -step)
    point = -torch.ones(1, 1, 5, 5)
    point[0, 0, 2, 2] = 1
    square = torch.zeros(5, 5, dtype=torch.bool)
    square[1:4, 1:4] = True
    thick = edited(point, "thicken", torch.Generator())
    assert torch.equal(thick[0, 0] == 1, square)
    blurred = edited(point, "blur", torch.Generator())
    torch.testing.assert_close(blurred[0, 0, 1:4, 1:4], torch.full((3, 3), -7 / 9))
    assert blurred[0, 0, 0, 0] == -1


def test_speckles_have_the_mean_and_variance_of_their_law():
    x = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 300, 300)
    seen = edited(x, "speckle", torch.Generator().manual_seed(0)) + 1
    dark = seen[1]  # hardly ever clamped
    assert dark.mean().item() == pytest.approx(0.2, rel=0.01)
    assert dark.var().item() == pytest.approx(0.04 / 4, rel=0.03)
    assert seen[0].mean().item() == pytest.approx(1.0, rel=0.03)
    assert seen.max() <= 2


def test_the_source_is_the_image_or_its_edit():
    digits, rows = Digits().images(), [3, 1, 7]
    data = Edited("digits", "invert")
    assert data.source_shape == data.image_shape == (1, 8, 8)
    assert torch.equal(data[rows][0], -digits[rows])
    assert torch.equal(data.sources(rows), digits[rows])
    assert torch.equal(data[rows][1], Digits()[rows][1])
    assert torch.equal(Edited("digits", "invert", undo=True)[rows][0], digits[rows])
    assert torch.equal(Edited("digits", "invert", undo=True).sources(rows), -digits[rows])
    held_out = data.holdout()
    assert torch.equal(held_out.images(), -Digits("holdout").images())
    assert torch.equal(held_out.source_images(), Digits("holdout").images())
    assert Edited("digits:holdout", "invert").holdout() is None
    assert data.fingerprint() != Edited("digits", "blur").fingerprint()
    assert torch.equal(Edited("digits", "speckle").images(), Edited("digits", "speckle").images())


def test_two_domains_share_no_row_and_what_is_held_out_has_pairs():
    data = UnpairedEdits("digits", "invert")
    assert len(data) == 500
    assert not data.paired
    targets, sources = {x.numpy().tobytes() for x in -data.images()}, data.source_images()
    originals = {x.numpy().tobytes() for x in Digits().images()}
    assert targets <= originals
    assert {x.numpy().tobytes() for x in sources} <= originals
    shared = targets & {x.numpy().tobytes() for x in sources}
    assert len(shared) == len(originals) - len({x.numpy().tobytes() for x in Digits().images()})
    assert data.holdout().paired
    assert torch.equal(data.holdout().images(), -data.holdout().source_images())


def test_what_cannot_be_is_one_line():
    with pytest.raises(ValueError, match="`edit=paint` must be invert, edges, blur, thicken, speckle"):
        Edited("digits", "paint")
    with pytest.raises(ValueError, match="has one image; two halves need two"):
        UnpairedEdits("digits", "invert", settings={"limit": 1})
