"""The script of docs/results/limits.md, on runs of a few steps."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from sparring.cli.main import main

SCRIPTS = Path(__file__).resolve().parents[2] / "docs" / "experiments"


@pytest.fixture
def levels(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("levels")
    monkeypatch.setattr(module, "LEVELS", (-4.0, 0.0, 4.0))
    return module


@pytest.fixture
def runs(tmp_path):
    place = tmp_path / "tiny" / "seed0"
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(place / "plain"), "--trainer.steps=2"]) == 0
    for name, rate in (("sadm", "1e-2"), ("still", "1e-12")):
        flags = [
            "--init",
            str(place / "plain"),
            "--trainer.steps=2",
            "--trainer.ema_decay=0",
            f"--trainer.generator_optimizer.lr={rate}",
        ]
        assert main(["fit", "sadm", "--on", "tiny", *flags, "--out", str(place / name)]) == 0
    return tmp_path


def rows_of(text):
    """{table: {arm: numbers}} of what the script prints."""
    found, table = {}, ""
    for line in text.splitlines():
        if re.fullmatch(r"[a-z]+", line):
            table = line
        elif line.startswith("| ") and not line.startswith("| log-SNR"):
            arm, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(table, {})[arm] = [float(cell) for cell in cells]
    return found


def test_a_run_that_stays_has_not_moved_and_has_the_controls_error(levels, runs, capsys):
    levels.main(["tiny", "plain", "sadm", "still", "--runs", str(runs)])
    found = rows_of(capsys.readouterr().out)
    assert set(found) == {"error", "moved", "share", "agreement"}
    assert all(len(row) == len(levels.LEVELS) for table in found.values() for row in table.values())
    assert found["error"]["still"] == [1.0] * len(levels.LEVELS)
    assert found["moved"]["still"] == [0.0] * len(levels.LEVELS)
    assert max(found["moved"]["sadm"]) > 0
    assert all(-1 <= value <= 1 for value in found["agreement"]["sadm"])
    assert min(found["share"]["sadm"]) > 0


def test_error_and_moved_of_known_predictions(levels):
    """A prediction off the control's at a right angle to its error: the error grows by what it moved."""
    before, off = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])  # of a clean image at 0
    control, own = (before, torch.tensor([1.0])), (off, torch.tensor([5.0]))
    assert levels.ratios(own, control) == pytest.approx((5.0, 2.0))
