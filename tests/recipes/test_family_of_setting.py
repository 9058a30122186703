"""A setting for a family of pipelines refuses those of another before any weight is read."""

import json

import pytest
from tiny_families import FAMILIES
from tiny_pipelines import KINDS

from sparring.cli.main import main
from sparring.generators.families import families
from sparring.recipes.compose import read, shipped
from sparring.recipes.recipe import check_family

OF_SETTING = {name: family for name in shipped("settings") if (family := read(name, "settings").get("family"))}
OF_PIPELINE = {name: kind.__module__.rpartition(".")[2] for name, kind in families().items()}


def only_index(folder, name):
    """A pipeline folder of which only the name of the class is there."""
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return str(folder)


def test_every_family_has_one_setting_and_every_setting_a_family():
    assert sorted(OF_SETTING.values()) == sorted({*OF_PIPELINE.values()})
    assert {*FAMILIES} - {"schnell"} < {*KINDS}
    tuning = {name for name in shipped("settings") if "pipeline" in shipped("settings")[name].lower() and name != "own"}
    assert tuning == {*OF_SETTING}


@pytest.mark.parametrize("setting", OF_SETTING)
def test_a_setting_takes_the_pipelines_of_its_family_and_names_the_setting_of_others(tmp_path, setting):
    for name, family in OF_PIPELINE.items():
        folder = only_index(tmp_path / name, name)
        if family == OF_SETTING[setting]:
            check_family(OF_SETTING[setting], folder)
            continue
        right = next(other for other in OF_SETTING if OF_SETTING[other] == family)
        with pytest.raises(ValueError, match=f"{name} is a {name}, and .* for a .*: take `--on {right}`, or a"):
            check_family(OF_SETTING[setting], folder)


def test_what_is_no_pipeline_of_a_family_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="is a DDPMPipeline, and this setting is for a FluxPipeline: take a setting"):
        check_family("flux", only_index(tmp_path / "plain", "DDPMPipeline"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "generator.json").write_text("{}")
    with pytest.raises(ValueError, match="is a network without a pipeline, and this setting is for a FluxPipeline"):
        check_family("flux", str(tmp_path / "own"))
    with pytest.raises(ValueError, match="`family: flx` of the setting is unknown; there are flux, flux2, lumina2"):
        check_family("flx", str(tmp_path / "own"))


@pytest.mark.parametrize("method", ["adt", "diffusion"])
def test_fit_refuses_it_in_one_line(tmp_path, capsys, method):
    folder, out = only_index(tmp_path / "sd", "StableDiffusionPipeline"), tmp_path / "run"
    words = ["fit", method, "--on", "flux", "--init", folder, "--data", "digits", "--out", str(out)]
    assert main(words) == 2
    line = f"{folder} is a StableDiffusionPipeline, and this setting is for a FluxPipeline: take `--on sd15`, or a"
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error
    assert not out.exists()


def test_it_holds_for_a_denoiser_that_something_is_trained_beside(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("like: digits\nfamily: flux\n")
    words = ["fit", "inv_diff_delta", "--on", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")]
    assert main([*words, "--init", only_index(tmp_path / "sd", "StableDiffusionPipeline")]) == 2
    assert "and this setting is for a FluxPipeline: take `--on sd15`" in capsys.readouterr().err
    words = ["fit", "inv_diff_delta", "--on", "sd15", "--data", "digits", "--out", str(tmp_path / "run")]
    assert main([*words, "--init", str(tmp_path / "sd")]) == 2
    assert (
        "this method trains a network of its own beside the denoiser, and this setting has none"
        in capsys.readouterr().err
    )


def test_a_setting_of_ones_own_is_for_the_family_that_it_is_like(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("like: sdxl\n")
    words = ["fit", "adt", "--on", str(tmp_path / "mine.yaml"), "--data", "digits", "--out", str(tmp_path / "run")]
    assert main([*words, "--init", only_index(tmp_path / "sd", "StableDiffusionPipeline")]) == 2
    assert "this setting is for a StableDiffusionXLPipeline" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("like: sdxl\nfamily: stable_diffusion\n")
    assert main([*words, "--init", str(tmp_path / "sd")]) == 2
    assert "this setting is for" not in capsys.readouterr().err
