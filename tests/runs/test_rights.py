"""Who may read what a run writes: those who may read its folder."""

import os
import stat

import torch

from sparring.cli.main import main
from sparring.runs.checkpoint import save_tensors


def test_weights_of_a_run_can_be_read_by_those_who_can_read_its_folder(tmp_path):
    before = os.umask(0o022)
    try:
        flags = ["--trainer.steps=1", "--trainer.num_samples=1"]
        assert main(["fit", "diffusion", "--on", "tiny", "--out", str(tmp_path / "run"), *flags]) == 0
        assert main(["encoder", "digits", "--epochs", "1", "--out", str(tmp_path / "run/encoder.safetensors")]) == 0
    finally:
        os.umask(before)
    weights = [*tmp_path.rglob("*.safetensors")]
    assert len(weights) >= 5
    assert {stat.S_IMODE(file.stat().st_mode) for file in weights} == {0o644}


def test_weights_in_a_private_folder_stay_private(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    save_tensors(tmp_path / "private/a.safetensors", {"a": torch.zeros(2)})
    assert stat.S_IMODE((tmp_path / "private/a.safetensors").stat().st_mode) == 0o600
