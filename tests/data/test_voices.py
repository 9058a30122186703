"""Synthetic voices: their law, what content leaves out, and speaker and pitch found again."""

import math

import pytest
import torch

from sparring.data import Voices, from_spec
from sparring.data.voices import content, spoken_by


def test_a_frame_is_its_harmonics_and_the_envelope_of_its_speaker():
    """Pitch 4 of 16 bands, speaker 1: the harmonics are the bands 4, 8, 12, 16; between two of them h is near -1."""
    frame = Voices(num_samples=1).spectra(torch.tensor(4.0), torch.tensor(1))
    for band, bump in ((4, 1.0), (8, 1.0), (12, 1.0), (16, 1.0), (6, -1 + 2 * math.exp(-8.0))):
        envelope = math.cos(2 * math.pi * (band - 0.5) / 16)
        assert frame[band - 1].item() == pytest.approx(0.4 * (bump + envelope), abs=1e-6)


def test_content_is_the_same_whoever_speaks_and_the_voice_is_not():
    data, pitch = Voices(num_samples=1), torch.linspace(3, 6, 16)
    voices = [data.spectra(pitch, torch.tensor([speaker])).T[None, None] for speaker in range(4)]
    for voice in voices[1:]:
        torch.testing.assert_close(content(voice), content(voices[0]), rtol=0, atol=1e-6)
        assert (voice - voices[0]).abs().mean() > 0.1
    torch.testing.assert_close(content(voices[0]).mean(-1), torch.zeros(1, 1, 16), rtol=0, atol=1e-6)


def test_speaker_and_pitch_are_found_again():
    data = Voices(num_samples=300)
    images, labels = data[list(range(300))]
    assert images.abs().max() <= 1
    speaker, pitch = data.speech(images)
    assert torch.equal(speaker, labels)
    assert pitch.shape == (300, 16)
    assert 3 <= pitch.min() < 3.2 < 5.8 < pitch.max() <= 6
    clean = data.spectra(pitch, labels[:, None]).transpose(1, 2)[:, None]
    assert (images - clean).square().mean().sqrt() < 0.05  # noise, and half a step of the grid
    other = (labels + 1) % 4
    moved = images - clean + data.spectra(pitch, other[:, None]).transpose(1, 2)[:, None]
    assert torch.equal(data.speech(moved)[0], other)
    torch.testing.assert_close(data.speech(moved)[1], pitch, rtol=0, atol=0.06)


def test_sources_hold_the_content_and_a_plane_for_each_speaker():
    data = Voices(num_samples=20)
    images, labels = data[list(range(20))]
    sources = data.sources(list(range(20)))
    assert data.source_shape == (5, 16, 16)
    torch.testing.assert_close(sources[:, :1], content(images), rtol=0, atol=1e-6)
    assert torch.equal(sources[:, 1:].mean((2, 3)), torch.nn.functional.one_hot(labels, 4).float())
    swapped = spoken_by(sources, (labels + 1) % 4)
    assert torch.equal(swapped[:, :1], sources[:, :1])
    assert torch.equal(swapped[:, 1:].mean((2, 3)).argmax(1), (labels + 1) % 4)


def test_what_is_held_out_is_new_and_keeps_its_own_content():
    for kind in ("centred", "whole", "shuffled"):
        data = Voices(num_samples=20, content=kind)
        held_out = data.holdout()
        assert len(held_out) == 20
        assert not torch.equal(held_out.images(), data.images())
        own = held_out.images() if kind == "whole" else content(held_out.images())
        torch.testing.assert_close(held_out.source_images()[:, :1], own, rtol=0, atol=1e-6)
        apart = (data.source_images()[:, :1] - content(data.images())).abs().max()
        assert (apart < 1e-6) == (kind == "centred")
    assert torch.equal(Voices(num_samples=20).images(), Voices(num_samples=20).images())
    assert not torch.equal(Voices(num_samples=20).images(), Voices(num_samples=20, seed=1).images())


def test_it_is_a_word_and_what_cannot_be_is_one_line():
    assert isinstance(from_spec("voices", num_samples=3), Voices)
    assert from_spec("digits", limit=3).speech(torch.zeros(1, 1, 8, 8)) is None
    for settings, message in ((dict(bands=4), "`bands=4`"), (dict(content="none"), "`content=none` must be centred")):
        with pytest.raises(ValueError, match=message):
            Voices(**settings)
