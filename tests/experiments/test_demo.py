"""The demo from end to end, with networks and steps that are tiny, and the baseline that the package holds."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

from sparring.cli.main import main
from sparring.evaluation import Comparison, Evaluator, RealImages
from sparring.experiments.demo import Demo
from sparring.recipes.compose import baseline_of, compose
from sparring.runs.results import read_results, summarise
from sparring.samplers import Sampler

pytestmark = pytest.mark.slow

METHODS = ("add", "adt", "ddo", "sadm")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Trained feature networks, once for this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(cache))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, cache) -> Demo:
    """A demo that was run: four steps an arm on the setting `tiny`."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(cache))
        assert main(["fit", "diffusion", "--on", "tiny", "--out", str(folder / "base")]) == 0
        made = Demo(folder / "runs", share=1.0, n=32, setting="tiny", baseline=folder / "base" / "pipeline")
        made.run()
    return made


def test_each_arm_ships_the_scheduler_of_its_method_and_is_measured_by_it(tiny):
    shipped = {name: DiffusionPipeline.from_pretrained(tiny.out / name / "pipeline").scheduler for name in METHODS}
    assert {name: type(one).__name__ for name, one in shipped.items()} == {
        "add": "LCMScheduler",  # a student that ships with another one draws noise
        "adt": "DDIMScheduler",
        "ddo": "DDIMScheduler",
        "sadm": "DDIMScheduler",
    }
    measured = {name: {one.setting for one in read_results(tiny.out / name)} for name in METHODS}
    assert measured["add"] == {("lcm", 1), ("lcm", 2)}
    assert measured["adt"] == measured["ddo"] == measured["sadm"]
    assert {scheduler for scheduler, _ in measured["adt"]} == {"ddim", "unipc"}
    for control in ("baseline", "plain"):
        assert {one.setting for one in read_results(tiny.out / control)} == measured["adt"] | measured["add"]


def test_no_two_settings_of_the_plan_draw_the_same_images(tiny):
    assert not Comparison.of([summarise(tiny.out / name) for name in ("baseline", "plain", *METHODS)]).same


def test_plain_training_shares_start_rate_and_cost_with_the_methods(tiny):
    configs = {name: yaml.safe_load((tiny.out / name / "config.yaml").read_text()) for name in ("plain", *METHODS)}
    for section, key in (("denoiser", "path"), ("trainer", "generator_optimizer"), ("trainer", "seed")):
        assert all(one[section][key] == configs["plain"][section][key] for one in configs.values())
    assert configs["plain"]["denoiser"]["path"] == str(tiny.out / "baseline")
    costs = {name: summarise(tiny.out / name).network_calls for name in ("plain", *METHODS)}
    assert costs["plain"] == max(costs[name] for name in METHODS) > 4  # steps of the methods


def test_again_keeps_what_is_there_goes_on_where_it_stopped_and_refuses_other_settings(tiny, monkeypatch, capsys):
    quick = {"share": 1.0, "n": tiny.n, "setting": tiny.setting, "baseline": tiny.baseline}
    monkeypatch.setattr("sparring.cli.demo.QUICK", quick)
    files = {name: tiny.out / name / "results.json" for name in ("add", "adt", "plain")}
    before = {name: file.read_bytes() for name, file in files.items()}
    kept = json.loads(before["adt"])[1:]  # as if it had been stopped before the last measurement
    files["adt"].write_text(json.dumps(kept))

    assert main(["demo", "--quick", "--out", str(tiny.out)]) == 0
    said = capsys.readouterr()
    assert "adt: sampling and measuring 1 setting" in said.err
    assert said.err.count("sampling") == 1
    assert files["add"].read_bytes() == before["add"]
    again, first = ({one["scheduler"] + str(one["nfe"]): one["frechet"] for one in json.loads(text)} for text in
                    (files["adt"].read_bytes(), before["adt"]))  # fmt: skip
    assert again == pytest.approx(first)
    assert all(f"{name} " in said.out for name in METHODS)
    assert "one seed" in said.out
    assert "the studies of several seeds say: add proven, adt proven, ddo no gain" in said.out
    page = (tiny.out / "report.html").read_text()
    assert all(name in page for name in ("baseline", "plain", *METHODS))

    assert main(["demo", "--quick", "--seed", "1", "--out", str(tiny.out)]) == 2
    assert "demo with other settings" in capsys.readouterr().err


def test_the_shipped_baseline_is_a_trained_network_of_its_setting():
    folder = baseline_of("digits-vp")
    pipeline = DiffusionPipeline.from_pretrained(folder)  # in a program that does not know sparring
    assert all(parameter.dtype == torch.float32 for parameter in pipeline.unet.parameters())
    network = compose("diffusion", "digits")["denoiser"]["net"]["init_args"]
    assert {name: pipeline.unet.config[name] for name in network} == network

    evaluator = Evaluator(RealImages.of("digits", None, folder))
    at_ten_calls = evaluator.sampler(Sampler(folder), n=500, steps=10, scheduler="unipc", seed=0)

    assert 0.2 < at_ten_calls.frechet < 1.0  # noise is at 50 and more
    assert at_ten_calls.recall > 0.6
    with pytest.raises(ValueError, match="no trained baseline for the setting fashion16"):
        baseline_of("fashion16")
