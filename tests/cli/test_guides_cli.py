"""Guides on the command line: what `fit` advises runs, and what is given in the wrong place is named in one line."""

import shlex
from pathlib import Path

import pytest

from sparring.cli.main import main
from sparring.recipes.compose import BESIDE, read, shipped

GUIDES = [name for name in shipped("methods") if "next" in read(name)]
QUICK = ["--n", "4", "--steps", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a tiny run, and one with classes."""
    folder = tmp_path_factory.mktemp("runs")
    fit = ["fit", "diffusion", "--on", "tiny", "--trainer.steps", "1"]
    assert main([*fit, "--out", str(folder / "base")]) == 0
    assert main([*fit, "--denoiser.net.num_class_embeds", "11", "--out", str(folder / "classes")]) == 0
    return folder


def test_every_guide_that_is_trained_beside_a_denoiser_says_how_it_is_used():
    beside = {name for name in shipped("methods") if read(name).get("start") == BESIDE}
    assert set(GUIDES) <= beside
    assert {"inv_diff_delta", "lacon_aligner", "minority_classifier", "noisy_discriminator", "plug_guide"} <= set(
        GUIDES
    )


@pytest.mark.parametrize("name", GUIDES)
def test_what_fit_advises_after_a_guide_runs(name, runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = runs / ("classes" if "denoiser" in read(name)["on"]["tiny"] else "base")
    capsys.readouterr()
    assert main(["fit", name, "--on", "tiny", "--init", str(base), "--trainer.steps", "1", "--out", "a guide"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: sparring "))
    assert words[:2] == ["sample", str(base)]
    assert "a guide" in words
    assert main([*words, *QUICK]) == 0
    assert (tmp_path / "samples.png").is_file()


def test_a_guide_of_any_denoiser_advises_nothing_that_would_not_run(capsys, tmp_path):
    out = str(tmp_path / "classifier")
    assert main(["fit", "noisy_classifier", "--on", "tiny", "--trainer.steps", "1", "--out", out]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("page: ")


def test_a_start_of_another_kind_is_named_in_one_line(runs, capsys, tmp_path):
    capsys.readouterr()
    fit = ["fit", "noisy_classifier", "--on", "tiny", "--init", str(runs / "base"), "--out", str(tmp_path / "run")]
    assert main(fit) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("this method trains a Guide, and --init or its own settings give it a Denoiser")
