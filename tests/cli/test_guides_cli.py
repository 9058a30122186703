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


def refused(capsys, *words: str) -> str:
    """The one line in which a command is refused."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_sweep_leaves_out_what_cannot_go_with_what_is_added(runs, capsys, tmp_path):
    sweep = ["--sweep", "--n", "2", "--out", tmp_path / "sheet.png"]
    for run, added, cells in [
        ("base", ["--with", "recycle", "--steps", "2"], 1),  # ddim; the others keep outputs of another state
        ("base", ["--with", "auto_diffusion", "--with.times", "0.9", "0.4", "--scheduler", "euler", "dpm"], None),
        ("base", ["--with", "auto_diffusion", "--with.times", "0.9", "0.4", "--steps", "2", "--scheduler", "euler"], 1),
        ("classes", ["--with", "projected", "--steps", "2", "--scheduler", "ddim"], 1),  # no guidance beside it
        ("classes", ["--steps", "2", "--scheduler", "ddim"], 3),
    ]:
        words = ["sample", runs / run, *added, *sweep]
        if added == ["--with", "recycle", "--steps", "2"]:  # a scheduler that was named is not left out without a word
            assert "recycle edits the state" in refused(capsys, *words, "--scheduler", "ddim", "unipc")
        if cells is None:
            assert "nothing to sweep: `steps=50`: 2 levels were chosen" in refused(capsys, *words)
        else:
            capsys.readouterr()
            assert main([str(word) for word in words]) == 0
            many = "1 sampler, " if cells == 1 else f"{cells} samplers, "
            assert f"a contact sheet of {many}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classes", "--guidance", "nan"], "`guidance=nan` must be a number"),
        (
            ["classes", "--guidance_interval", "0.2", "2"],
            "`guidance_interval`: there is no guidance that it could be of: give --guidance, too",
        ),
        (
            ["classes", "--guidance_interval", "0.2", "2", "--with", "projected"],
            "`guidance_interval`: there is no guidance that it could be of: of what --with adds it is --with.interval",
        ),
        (["classes", "--labels", "10"], "`label=10`: the network has the classes 0 to 9"),
        (["classes", "--guidance", "2", "--with", "projected"], "guidance=2, projected all guide by the condition"),
        (["base", "--with", "weak_to_strong"], "weak_to_strong: nothing makes the sampled model stronger than itself"),
        (
            ["base", "--with", "recycle", "--with.strength", "2"],
            "`--with recycle`: unknown setting --with.strength=2; it",
        ),
    ],
)
def test_what_would_give_another_picture_than_was_meant_is_refused(words, said, runs, capsys, tmp_path):
    base, *rest = words
    assert said in refused(capsys, "sample", runs / base, *QUICK, "--out", tmp_path / "picture.png", *rest)
    assert not (tmp_path / "picture.png").exists()


def test_what_only_adds_to_a_denoiser_is_not_sampled_and_a_guide_keeps_to_what_it_learned(runs, capsys, tmp_path):
    fit = ["--on", "tiny", "--trainer.steps", "1"]
    delta, guide = tmp_path / "delta", tmp_path / "guide"
    assert main(["fit", "inv_diff_delta", *fit, "--init", str(runs / "base"), "--out", str(delta)]) == 0
    for command in ("sample", "evaluate"):
        said = refused(capsys, command, delta, *QUICK)
        assert f"{delta} makes no images by itself: it was trained beside {runs / 'base'}; sample that" in said
    assert main(["fit", "plug_guide", *fit, "--init", str(runs / "classes"), "--out", str(guide)]) == 0
    plugged = ["sample", runs / "classes", *QUICK, "--with", "plugged", "--with.guide", guide, "--with.scale"]
    assert "`scale=9.0`: the guide learned scales of 1 to 4; 1 is none" in refused(capsys, *plugged, "9")


def test_a_system_for_denoisers_is_named_if_a_gan_is_sampled(runs, capsys, tmp_path):
    assert main(["fit", "gan", "--on", "tiny", "--trainer.steps", "1", "--out", str(tmp_path / "gan")]) == 0
    said = refused(capsys, "sample", tmp_path / "gan", "--with", "recycle", "--with.steps", "2")
    assert "`recycle(steps=2)`: ConvGenerator makes an image in one call" in said
