"""What is said of long work: seldom, with the time that is left, and nothing of what is short."""

import logging

import pytest
import torch

from sparring.backbones import SmallConvNet
from sparring.data import Digits, Draws, StoredImages, waiting
from sparring.data.waiting import Pace, Told, counted, in_words, told
from sparring.generators import load_generator
from sparring.methods.own_samples import own_samples
from sparring.metrics.extract import ImageBatches
from sparring.recipes.compose import baseline_of


class Clock:
    """A clock that moves by `step` seconds at every look, and otherwise stands still."""

    def __init__(self, step: float = 0.0):
        self.now, self.step = 100.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


@pytest.fixture
def lines(caplog, monkeypatch):
    """The lines that were said."""
    monkeypatch.setattr(waiting.SAYS, "propagate", True)
    caplog.set_level(logging.INFO, "sparring")
    return lambda: [record.getMessage() for record in caplog.records]


def test_of_one_thing_there_is_no_plural():
    assert [counted(n, "network call") for n in (0, 1, 2)] == ["0 network calls", "1 network call", "2 network calls"]


def test_time_that_is_left_is_that_of_the_units_made_so_far(clock):
    pace = Pace(total=110, done=10)
    assert pace.left(10) == ""
    clock.now += 30
    assert pace.left(30) == ", about 2 minutes left"  # 20 units in 30 s, 80 to go
    assert pace.left(85) == ", about 10 s left"
    assert pace.left(110) == ""


def test_lines_are_due_every_ten_seconds(clock):
    pace, due = Pace(total=100), []
    for second in range(1, 41):
        clock.now = 100 + second
        due += [second] if pace.due() else []
    assert due == [10, 20, 30, 40]


def test_what_is_short_says_nothing_and_what_is_long_soon_and_then_seldom(clock, lines):
    for _ in told(range(30), "short", 30):
        clock.now += 0.05
    assert lines() == []
    for _ in told(range(30), "long", 30):
        clock.now += 1
    assert lines() == [
        "long: 7 %, about 28 s left",
        "long: 40 %, about 18 s left",
        "long: 73 %, about 8 s left",
    ]


def test_the_end_is_not_said(clock, lines):
    one_more = Told("work", 2)
    for _ in range(2):
        clock.now += 20
        one_more()
    assert lines() == ["work: 50 %, about 20 s left"]


def test_durations_in_words():
    assert [in_words(seconds) for seconds in (42, 600, 7200)] == ["42 s", "10 minutes", "2.0 hours"]


def test_drawing_samples_for_a_method_is_said(monkeypatch, lines):
    monkeypatch.setattr(waiting, "time", Clock(step=3.0))
    denoiser = load_generator(baseline_of("digits-vp"))
    images, _ = own_samples(denoiser, Digits(), 300, scheduler="ddim", num_steps=2, draws=Draws(0))
    assert len(images) == 300
    assert lines()[0].startswith("drawing 300 samples of the trained denoiser: 17 %, about ")  # of two batches
    assert "100 %" not in " ".join(lines())


@pytest.mark.parametrize("kind", ["classifier", "self-supervised"])
def test_training_a_small_network_and_reading_images_are_said(kind, monkeypatch, lines):
    monkeypatch.setattr(waiting, "time", Clock(step=3.0))
    data = Digits()
    images, labels = data.images(300), data.labels(300)
    SmallConvNet(in_channels=1, widths=(8,), num_classes=10, pretrain=kind, epochs=2).prepare(images, labels)
    named = StoredImages(torch.zeros(600, 1, 8, 8), name="mine")
    list(ImageBatches(named))
    start = list(dict.fromkeys(line.split(":")[0] for line in lines()))
    what = "a classifier" if kind == "classifier" else "a self-supervised network"
    assert start == [
        "reading 300 images of digits",
        f"training {what} on 270 images",
        "looking at 600 images of mine",
    ]
