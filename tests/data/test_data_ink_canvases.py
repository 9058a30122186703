"""Digits by their ink, and canvases of two digits: what the labels and places say is so."""

import pytest
import torch

from sparring.data import DigitCanvases, Digits, InkDigits, from_spec


def test_half_of_each_digit_is_thick_and_has_more_ink():
    by_ink, digits = InkDigits("all"), Digits("all")
    assert torch.equal(by_ink.images(), digits.images())
    ink, thick = by_ink.images().mean((1, 2, 3)), by_ink.labels() == 1
    for digit in range(10):
        of_digit = digits.labels() == digit
        assert 0.45 < thick[of_digit].float().mean() <= 0.5
        assert ink[of_digit & thick].min() > ink[of_digit & ~thick].max()


def test_one_kind_of_ink_may_be_kept_and_labelled_by_the_digit():
    thin, thick = (InkDigits(labels="digit", ink=ink) for ink in ("thin", "thick"))
    assert len(thin) + len(thick) == len(Digits())
    assert (thin.num_classes, thick.class_names) == (10, [str(digit) for digit in range(10)])
    assert thin.images().mean() < thick.images().mean() - 0.05
    held_out = thin.holdout()
    assert held_out.ink == "thin"
    assert len(held_out) + len(InkDigits("holdout", ink="thick")) == 500
    assert held_out.holdout() is None
    with pytest.raises(ValueError, match="`ink=bold` must be thin or thick"):
        InkDigits(ink="bold")


def test_thick_digits_may_be_rare_in_every_part():
    rare = InkDigits(ratio=[9, 1])
    for part in (rare, rare.holdout()):
        thin, thick = part.labels().bincount().tolist()
        assert thin == 9 * thick
        assert thin > 0.24 * len(Digits("train" if part is rare else "holdout"))
    with pytest.raises(ValueError, match=r"`ratio=\[9, 1\]` must give a number"):
        InkDigits(ratio=[9, 1], ink="thin")


def test_a_canvas_holds_two_digits_that_do_not_overlap():
    data = DigitCanvases(num_samples=200)
    canvases = (data.images() + 1) / 2
    ink = (Digits().images() + 1).flatten(1).sum(1) / 2
    assert canvases.shape == (200, 1, 16, 16)
    assert (canvases.flatten(1).sum(1) >= 2 * ink.min()).all()
    assert canvases.max() <= 1
    everywhere = canvases.mean(0)[0]
    assert (everywhere[2:-2, 2:-2] > 0.02).all()
    assert torch.equal(data.images(), DigitCanvases(num_samples=200).images())
    assert not torch.equal(data.images(), data.holdout().images())
    assert data.holdout().holdout() is None


def test_asked_digits_lie_in_their_corners():
    data = from_spec("canvases", num_samples=20, classes=[3, 7], corners=True)
    three, seven = (Digits(only=[digit]).images() for digit in (3, 7))
    for canvas in data.images():
        assert (canvas[:, :8, :8] == three).flatten(1).all(1).any()
        assert (canvas[:, 8:, 8:] == seven).flatten(1).all(1).any()
        assert (canvas[:, :8, 8:] == -1).all()
    with pytest.raises(ValueError, match=r"`classes=\[3\]` must be two digits"):
        DigitCanvases(classes=[3])
