"""`sparring study`: from a YAML file to runs, tables, verdicts and documents; what goes on, and what is refused."""

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import fields
from functools import partial
from inspect import signature
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
import yaml
from docs_figures import load
from PIL import Image
from safetensors.torch import load_file

from sparring.cli.main import main
from sparring.data import Digits, StoredImages
from sparring.evaluation import Comparison
from sparring.experiments import measuring
from sparring.experiments.collect import areas, text_of
from sparring.experiments.measuring import part
from sparring.experiments.results import StudyResults
from sparring.experiments.runner import Clock
from sparring.experiments.study import ArmOfStudy, SettingOfStudy, Study, as_flags, read_study
from sparring.experiments.study_runs import StudyRuns, steps_of
from sparring.generators import Denoiser
from sparring.generators.loading import load_denoiser
from sparring.networks import MLP
from sparring.process import RectifiedFlow
from sparring.recipes.compose import shipped
from sparring.recipes.with_systems import class_of
from sparring.runs import RunSummary, summarise
from sparring.runs.results import Result
from sparring.training.trainer import Trainer

pytestmark = pytest.mark.slow

QUICK = {"trainer.num_samples": 4}
STUDY = {
    "settings": {"tiny": {"scratch": QUICK, "tune": QUICK}},
    "seeds": [0, 1],
    "n": 32,
    "samplers": {"ddim": [2], "euler": [2, 3]},
    "features": {"pixels": "pixels"},
    "arms": {
        "plain": {"recipe": "diffusion", "control_of": "all"},
        "adt": {"recipe": "adt", "steps": 0.75, "flags": {"method.num_steps": 2}},
    },
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def written(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "few.yaml"
    file.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return str(file)


def error(capsys):
    return capsys.readouterr().err


def distances(run, scheduler, nfe):
    results = json.loads((run / "results.json").read_text())
    return [one["frechet"] for one in results if (one["scheduler"], one["nfe"]) == (scheduler, nfe)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study of two arms and two seeds: its folder and what it printed."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(out / "cache"))
        assert main(["study", written(out), "--out", str(out / "runs")]) == 0
    return out


def test_the_tables_are_means_and_ratios_over_the_seeds(done):
    runs = {
        arm: [done / "runs" / "tiny" / f"seed{seed}" / arm for seed in (0, 1)] for arm in ("baseline", "plain", "adt")
    }
    found = {arm: [distances(run, "euler", 3) for run in both] for arm, both in runs.items()}
    assert all(len(values) == 1 for both in found.values() for values in both)
    plain, adt = ([values[0] for values in found[arm]] for arm in ("plain", "adt"))
    results = StudyResults.read(done / "runs" / "few.json")
    table = results.settings["tiny"].table("distance").part(columns=["euler 3"])
    assert [row[0] for row in table.rows] == ["baseline", "plain", "adt"]
    nfe = [summarise(run).network_calls for run in runs["adt"]]
    assert [row[2] for row in table.rows] == ["4", "4", f"{mean(nfe):.0f}"]
    assert table.rows[2][-1] == f"{mean(adt):.2f}±{stdev(adt):.2f}"
    assert (table.n, table.n_reference, table.split) == (32, 500, "holdout")
    (row,) = results.settings["tiny"].table("ratio", control="plain").part(columns=["euler 3"]).rows
    quotients = [a / b for a, b in zip(adt, plain, strict=True)]
    assert row == ["adt", "pixels", text_of(quotients)]
    assert results.seeds == [0, 1]


def test_points_have_tables_of_modes_and_good_ones(tmp_path, capsys):
    quick = {"trainer.steps": 3, "trainer.sample_every": 0, "trainer.num_samples": 4, "data.num_samples": 200}
    changes = {
        "settings": {"ring": {"scratch": quick}},
        "features": {"points": "points"},
        "samplers": {"one call": [1]},
        "arms": {
            "baseline": {"recipe": "diffusion", "start": "scratch", "samplers": {"ddim": [2]}},
            "hinge × R1": {"recipe": "gan", "start": "scratch", "flags": {"method.objective": "Hinge"}},
            "hinge × none": {
                "recipe": "gan",
                "start": "scratch",
                "flags": {"method.objective": "Hinge", "method.penalty": None},
            },
        },
    }
    assert main(["study", written(tmp_path, **changes), "--out", str(tmp_path / "runs")]) == 0
    setting = StudyResults.read(tmp_path / "runs" / "few.json").settings["ring"]
    for kind, metric in (("modes", "modes_covered"), ("good", "good_share")):
        table = setting.table(kind)
        assert table.columns == ["arm", "ddim 2", "one call 1"]
        rows = {name: cells for name, *cells in table.rows}
        for arm, place in (("baseline", 0), ("hinge × R1", 1), ("hinge × none", 1)):
            files = [tmp_path / "runs" / "ring" / f"seed{seed}" / arm / "results.json" for seed in (0, 1)]
            values = [one[metric] for file in files for one in json.loads(file.read_text())]
            assert len(values) == 2
            assert rows[arm][place] == text_of(values, 1 if kind == "modes" else None)
            assert rows[arm][1 - place] == ""
    assert setting.table("modes").crossed().columns == ["", "R1", "none"]
    line = next(csv.DictReader((tmp_path / "runs" / "few.csv").open()))
    assert 0 <= int(line["modes_covered"]) <= 8


def test_what_a_study_leaves_behind(done, capsys):
    page = (done / "runs" / "few.md").read_text()
    assert "tiny, pixels pooled to 4x4, holdout; n = 32 against 500, floor" in page
    assert "tiny, precision/recall, mean over seeds, pixels" in page
    assert "tiny, distance over that of plain, seed by seed" in page
    assert re.search(r"- \*\*adt\*\*, (no gain|gain|worse), two seeds\. At equal scheduler", page)
    assert r"\begin{tabular}" in (done / "runs" / "few.tex").read_text()
    with (done / "runs" / "few.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 3
    one = next(x for x in lines if (x["arm"], x["seed"], x["scheduler"], x["nfe"]) == ("adt", "1", "euler", "3"))
    (frechet,) = distances(done / "runs" / "tiny" / "seed1" / "adt", "euler", 3)
    assert float(one["frechet"]) == pytest.approx(frechet, rel=1e-4)
    assert one["training_steps"] == "3"
    assert np.asarray(Image.open(done / "runs" / "few.png").convert("L")).std() > 10
    html = (done / "runs" / "few-tiny.html").read_text()
    assert "few: tiny" in html
    assert "adt" in html


def test_what_is_finished_is_kept_and_printed_again(done, capsys):
    run = done / "runs" / "tiny" / "seed0" / "adt"
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    for more in ([], ["--print"]):
        assert main(["study", str(done / "few.yaml"), "--out", str(done / "runs"), *more]) == 0
        assert (done / "runs" / "few.md").read_text() in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before


def test_seeds_and_arms_can_be_chosen(done, capsys):
    words = ["study", str(done / "few.yaml"), "--out", str(done / "runs"), "--print"]
    assert main([*words, "--seeds", "1", "--arms", "plain"]) == 0
    printed = capsys.readouterr().out
    assert "Seeds: 1." in printed
    assert "sparring study" in printed
    assert "--seeds 1" in printed
    assert "±" not in printed
    assert "| adt |" not in printed
    assert main([*words, "--seeds", "5"]) == 2
    assert "nothing of the study few is in" in capsys.readouterr().err


def test_the_documents_are_filled(done, tmp_path, capsys):
    (tmp_path / "page.md").write_text("<!-- table: few distance arms=adt columns='ddim 2' -->\n<!-- end -->\n")
    words = ["study", str(done / "few.yaml"), "--out", str(done / "runs"), "--print", "--write", str(tmp_path)]
    assert main(words) == 0
    assert re.search(r"\| adt \| \d+ \| \d+ \| [\d.]+±[\d.]+ \|", (tmp_path / "page.md").read_text())
    assert StudyResults.read(tmp_path / "data" / "few.json") == StudyResults.read(done / "runs" / "few.json")
    assert main([*words, "--arms", "plain"]) == 2
    assert "`--write` needs every arm" in capsys.readouterr().err
    assert main([*words, "--seeds", "0", "1", "2"]) == 2
    assert "`--write` needs every seed of every arm, and there is tiny, baseline: seeds 0, 1 only" in error(capsys)
    assert main([*words[:-2], "--seeds", "0", "1", "2"]) == 0
    assert "warning: tiny, adt: seeds 0, 1 only" in error(capsys)
    assert main(words[:-2]) == 0  # as it was


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("changes", ["few", "--control", "plain", "--data", "RUNS"]),
        ("curves", ["few", "--arms", "plain", "adt", "--data", "RUNS"]),
        ("samples", ["tiny", "euler-3", "plain", "adt", "--columns", "4", "--runs", "RUNS"]),
        ("training", ["tiny", "plain", "adt", "--seeds", "0", "1", "--runs", "RUNS"]),
    ],
)
def test_the_figures_of_the_documentation_are_drawn(script, words, done, tmp_path):
    words = [str(done / "runs") if word == "RUNS" else word for word in words]
    load(script).main([*words, "--out", str(tmp_path / "figure.png")])
    assert np.asarray(Image.open(tmp_path / "figure.png").convert("L")).std() > 10  # something is drawn


def test_a_study_that_was_stopped_goes_on(done, tmp_path, monkeypatch, capsys):
    log = Trainer.log

    def stop_adt(trainer):
        log(trainer)
        if trainer.folder.path.name == "adt" and trainer.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    words = ["study", written(tmp_path), "--out", str(tmp_path / "runs"), "--seeds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "log", stop_adt)
        assert main(words) == 128 + signal.SIGTERM
    assert "the same command goes on from here" in capsys.readouterr().err
    run = tmp_path / "runs" / "tiny" / "seed0"
    assert [step.name for step in (run / "adt" / "checkpoints").iterdir()] == ["000002"]
    plain = (run / "plain" / "config.yaml").stat().st_mtime_ns

    assert main(words) == 0
    assert "[3/3] tiny, seed 0, adt: 1 step, 3 measurements" in capsys.readouterr().err
    assert (run / "plain" / "config.yaml").stat().st_mtime_ns == plain
    weights = "adt/pipeline/unet/diffusion_pytorch_model.safetensors"
    stopped, whole = (load_file(folder / weights) for folder in (run, done / "runs" / "tiny" / "seed0"))
    assert all(torch.equal(value, whole[name]) for name, value in stopped.items())


def test_a_method_that_does_nothing_is_no_gain(tmp_path):
    nothing = {"recipe": "sadm", "flags": {"method.mode": "off"}}
    arms = {"plain": {"recipe": "diffusion", "control_of": "all"}, "nothing": nothing}
    file = written(tmp_path, arms=arms, seeds=[0, 1, 2], samplers={"euler": [2]})
    assert main(["study", file, "--out", str(tmp_path / "runs")]) == 0
    results = StudyResults.read(tmp_path / "runs" / "few.json").settings["tiny"]
    assert results.table("ratio").rows == [["nothing", "pixels", "1.00±0.00"]]
    rows = {row[0]: row[2:] for row in results.table("distance").rows}
    assert rows["nothing"] == rows["plain"]
    assert [(one["name"], one["verdict"]) for one in results.verdicts] == [("nothing", "no gain")] * 2


def test_a_run_that_is_older_than_a_setting_has_its_default(done, capsys):
    file = done / "runs" / "tiny" / "seed0" / "plain" / "config.yaml"
    command = ["study", str(done / "few.yaml"), "--out", str(done / "runs"), "--print"]
    before = file.read_text()
    try:
        config = yaml.safe_load(before)
        assert config["trainer"].pop("ema_warmup") is False
        file.write_text(yaml.safe_dump(config))
        assert main(command) == 0
        config["trainer"]["ema_warmup"] = True
        file.write_text(yaml.safe_dump(config))
        assert main(command) == 2
    finally:
        file.write_text(before)
    assert "was trained with `trainer.ema_warmup=True`, and the arm 'plain' has False" in capsys.readouterr().err


def test_a_run_with_other_settings_is_refused_before_anything_is_trained(done, capsys):
    arms = STUDY["arms"] | {
        "adt": {"recipe": "adt", "steps": 0.75, "flags": {"method.num_steps": 3}},
        "new": {"recipe": "ddo"},
    }
    (done / "other.yaml").write_text(yaml.safe_dump(STUDY | {"arms": arms}))
    for more in ([], ["--print"]):
        assert main(["study", str(done / "other.yaml"), "--out", str(done / "runs"), *more]) == 2
        error = capsys.readouterr().err.strip()
        assert "was trained with `method.init_args.num_steps=2`, and the arm 'adt' has 3: remove the run" in error
        assert len(error.splitlines()) == 1
    assert not (done / "runs" / "tiny" / "seed0" / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "unknown key 'arm': did you mean arms?"),
        (
            {"arms": {"plain": {"recipe": "diffusion", "stepz": 2}}},
            "arms.plain: unknown key 'stepz': did you mean steps?",
        ),
        ({"arms": {"plain": {}}}, "arms.plain: `recipe` is missing"),
        ({"arms": {"plain": {"recipe": "diffusion", "steps": 0}}}, "arms.plain: `steps=0` must be a factor above 0"),
        ({"arms": {"plain": {"recipe": "diffusion", "control_of": ["no"]}}}, "`control_of` names 'no', and there are"),
        ({"arms": {"plain": {"recipe": "diffusoin"}}}, "arm 'plain' on tiny: unknown recipe 'diffusoin': did you mean"),
        ({"arms": {"plain": {"recipe": "diffusion", "flags": {"trainer.step": 1}}}}, "arm 'plain' on tiny:"),
        ({"arms": {"a/b": {"recipe": "diffusion"}}}, "cannot hold a slash"),
        ({"arms": []}, "`arms` must be a mapping of names"),
        ({"settings": {"tiny": {"onn": "digits"}}}, "settings.tiny: unknown key 'onn': did you mean on?"),
        ({"settings": {"tinny": None}}, "unknown setting 'tinny': did you mean tiny?"),
        (
            {"settings": {"tiny": {"holdout": {"rows": [1, 0]}}}},
            "settings.tiny: holdout: `rows=[1, 0]` must be two shares",
        ),
        ({"settings": {"tiny": {"data": {"path": "DATA/x.parquet"}}}}, "needs --data FOLDER, with x.parquet"),
        ({"samplers": {"ddim": 5}}, "`samplers` must give network calls by scheduler"),
        ({"seeds": [0, 0]}, "`seeds=[0, 0]` must be a list of different numbers"),
        ({"n": 1.5}, "`n=1.5` must be a number of images"),
        ({"split": "test"}, "`split=test` must be validation or holdout"),
        ({"features": {"pix": "pixels", "pixels": "pixels"}}, "'pixels' begins with 'pix'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(changes, message, tmp_path, capsys):
    assert main(["study", written(tmp_path, **changes), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("sparring: error: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smok"], "unknown study 'smok': did you mean smoke?"),
        (["no.yaml"], "study file no.yaml does not exist"),
        (["smoke", "--arms", "adtt"], "`arms=adtt`: the study smoke has baseline; plain; adt"),
        (["smoke", "--seeds", "1", "1"], "must be a list of different numbers"),
        (["smoke", "--write", "nowhere"], "`write=nowhere` is not a folder"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, capsys):
    assert main(["study", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_gains_in_tuning_are_measured_with_the_best_sampler_and_with_many_calls():
    """What is left of a gain there is no error of the solver. Response curves and the smoke study claim none."""
    studies = [read_study(name) for name in shipped("studies") if name not in ("smoke", "sadm-curves")]
    tuned = [one for one in studies if {"adt", "ddo", "sadm"} & {arm.recipe for arm in one.arms.values()}]
    assert len(tuned) > 10
    assert [one.name for one in tuned if max(one.samplers.get("unipc", [0])) < 50] == []


@pytest.mark.parametrize("name", shipped("studies"))
def test_every_arm_of_a_shipped_study_names_settings_that_exist(name, tmp_path):
    study = read_study(name)
    runs = StudyRuns(study, tmp_path, tmp_path)
    for setting in study.settings:
        for arm in study.arms:
            if not runs.only_samples(setting, arm):
                trainer = runs.config(setting, arm)["trainer"]
                assert trainer["steps"] > 0
                assert not {"generator", "discriminator"} & {*trainer.get("freeze", [])}  # a whole player: refused
            for system in study.arms[arm].sampling.get("with", []):
                assert set(system) - {"name"} <= set(signature(class_of(system["name"])).parameters)
                named = [value for value in system.values() if str(value).startswith("ARMS/")]
                assert all(value.removeprefix("ARMS/") in study.arms for value in named)
    if any(arm.control_of for arm in study.arms.values()):  # others are tables of arms side by side
        for name, arm in study.arms.items():  # every arm that is no control has one, but for points of a curve
            assert study.controls_of(name) or name == "baseline" or arm.control_of or "at" in arm.average


def test_the_arms_of_the_studies_are_trained_as_they_were_measured(tmp_path):
    """Steps, rates and averages of the results in docs/results, some of which come from the recipes."""
    moved = StudyRuns(read_study("sadm-moved-adapters"), tmp_path, tmp_path)
    arm = moved.config("fashion16-moved", "sadm-frozen, LoRA")
    assert arm["trainer"]["steps"] == 600
    assert arm["trainer"]["generator_optimizer"]["lr"] == 1e-3
    assert arm["trainer"]["ema_decay"] == 0.99
    assert arm["method"]["init_args"]["mode"] == "frozen"
    assert "LoRA" in arm["denoiser"]["tuning"]["class_path"]
    assert arm["data"]["init_args"]["where"] == {"label": ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]}
    base = moved.config("fashion16-moved", "baseline")
    assert (base["trainer"]["steps"], base["trainer"]["ema_decay"], base["trainer"]["precision"]) == (
        4000,
        0.999,
        "bf16",
    )
    assert base["data"]["init_args"]["where"]["label"][0] == "T-shirt/top"
    steps = {
        ("digits", "digits", "plain-calls"): 1260,
        ("digits", "digits", "add-alone"): 800,
        ("adt-digits", "digits", "m = 10, k = 2"): 150,
        ("adt-fashion16", "fashion16", "adt"): 300,
        ("adt-fashion16", "fashion16", "plain-calls"): 1260,
        ("adt-32", "fashion32", "m = 10, k = 2"): 90,
        ("adt-emoji", "emoji32", "adt"): 150,
        ("sadm-emoji-moved", "emoji32-moved", "sadm"): 400,
        ("sadm-emoji-moved", "emoji32-moved", "baseline"): 1500,
        ("sadm-limits", "digits-short", "baseline"): 500,
        ("sadm-scratch", "digits", "scratch, frozen"): 2000,
    }
    found = {key: StudyRuns(read_study(key[0]), tmp_path, tmp_path).steps(*key[1:]) for key in steps}
    assert found == steps


@pytest.fixture
def parquet(tmp_path):
    import datasets

    images, labels = Digits()[list(range(120))]
    pixels = ((images[:, 0] + 1) * 127.5).round().byte().numpy()
    columns = {"image": [Image.fromarray(one) for one in pixels], "label": labels.tolist()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(10)})
    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(folder / "digits.parquet"))
    return folder


def test_own_files_a_moved_baseline_and_parts_of_a_test_set(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "SmallConvNet", partial(measuring.SmallConvNet, epochs=1))
    where = {"label": ["0", "1", "2", "3"]}
    setting = {
        "on": "tiny",
        "baseline_data": {"path": "DATA/digits.parquet", "settings": {"where": where}},
        "data": {"path": "DATA/digits.parquet"},
        "holdout": {"path": "DATA/digits.parquet", "rows": [0.5, 1]},
    }
    file = written(
        tmp_path,
        settings={"moved": setting},
        seeds=[0],
        samplers={"euler": [2]},
        features={"the discriminator's encoder": "encoder", "pixels": "pixels"},
        arms={"plain": {"recipe": "diffusion", "control_of": "all"}},
    )
    assert main(["study", file, "--out", str(tmp_path / "runs"), "--data", str(parquet)]) == 0
    run = tmp_path / "runs" / "moved" / "seed0"
    config = yaml.safe_load((run / "baseline" / "config.yaml").read_text())
    assert config["data"]["init_args"]["where"] == where
    results = json.loads((run / "baseline" / "results.json").read_text())
    assert [one["features"] for one in results] == ["the discriminator's encoder", "pixels pooled to 4x4"]
    assert [one["n_reference"] for one in results] == [60, 60]
    assert results[0]["train"] == "digits"  # the images of the arms, for both
    assert yaml.safe_load((run / "plain" / "config.yaml").read_text())["data"]["init_args"].get("where") is None


def test_the_guide_shows_a_study_and_every_key():
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "studies.md").read_text()
    content = yaml.safe_load(guide.split("```yaml")[1].split("```")[0])
    content["settings"]["digits-short"]["on"] = content["settings"]["digits-short"].pop(True)  # YAML 1.1
    study = Study.read("guide", content | {"name": "guide"})
    assert study.controls_of("adt") == ["plain", "plain-calls"]
    for heading, kind in (("| `settings` |", Study), ("| `recipe` |", ArmOfStudy), ("| `on` |", SettingOfStudy)):
        table = guide[guide.index(heading) :].split("\n\n")[0]
        keys = {key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1])}
        assert keys == {part.name for part in fields(kind)} - {"name"}


def test_parts_share_no_row_and_are_always_the_same():
    data = StoredImages(torch.arange(20.0).reshape(20, 1, 1, 1), torch.arange(20), name="numbers")
    few, rest = part(data, [0, 0.2], "validation"), part(data, [0.2, 1], "holdout")
    assert (len(few), len(rest)) == (4, 16)
    assert sorted(torch.cat([few.labels(), rest.labels()]).tolist()) == list(range(20))
    assert few.labels().tolist() == part(data, [0, 0.2], "validation").labels().tolist()
    assert torch.equal(few.images()[:, 0, 0, 0].long(), few.labels())
    assert (few.name, few.num_classes) == ("numbers:validation 0 to 0.2", 20)


def test_words_in_flags_are_replaced_as_parts_of_a_path():
    flags = {"a.path": "DATA/x.th", "b": "BASELINE", "c": "MYDATA", "d": [1, 2], "e": None, "f": True}
    assert as_flags(flags, {"DATA": "/images", "BASELINE": "/runs/base"}) == [
        "--a.path=/images/x.th",
        "--b=/runs/base",
        "--c=MYDATA",
        "--d=[1, 2]",
        "--e=null",
        "--f=true",
    ]


def test_controls_are_those_that_name_the_arm():
    arm = {"recipe": "diffusion"}
    arms = {"plain": arm | {"control_of": "all"}, "a": arm, "b": arm | {"control_of": ["a"]}}
    study = Study.read("x", STUDY | {"name": "x", "arms": arms})
    assert {name: study.controls_of(name) for name in study.arms} == {
        "baseline": [],
        "plain": [],
        "a": ["plain", "b"],
        "b": ["plain"],
    }


def test_time_left_counts_the_same_arms_first():
    clock = Clock()
    assert clock.left([("digits", "adt")]) is None
    clock.add("digits", "adt", 10)
    clock.add("digits", "adt", 30)
    clock.add("digits", "plain", 4)
    assert clock.left([("digits", "adt"), ("digits", "new")]) == 20 + (20 + 4) / 2


def test_numbers_have_three_digits():
    assert text_of([]) == ""
    assert text_of([0.5]) == "0.500"
    assert text_of([1.0, 2.0]) == "1.50±0.71"
    assert text_of([0.1, 0.3]) == "0.200±0.141"


def test_an_arm_is_sampled_in_several_ways_and_guides_are_not_measured(tmp_path):
    """Weight zero is the arm itself; calls, and samples of the class that was asked for, are counted."""
    guided = {"name": "classifier", "classifier": "ARMS/guide"}
    left = {"name": "lacon", "aligner": "ARMS/aligner", "target": "left", "weight": 0.0}
    changes = {
        "seeds": [0],
        "samplers": {"ddim": [2]},
        "features": {"classifier": "classifier"},
        "arms": {
            "baseline": {"recipe": "diffusion", "start": "scratch", "control_of": "all"},
            "guide": {"recipe": "noisy_classifier", "start": "scratch"},
            "off": {"of": "baseline", "sampling": {"with": [guided | {"weight": 0.0}]}},
            "on": {"of": "baseline", "sampling": {"with": [guided | {"weight": 20.0}]}},
            "aligner": {"recipe": "lacon_aligner"},
            "left": {"of": "baseline", "sampling": {"with": [left]}},
        },
    }
    file = written(tmp_path, **changes)
    assert main(["study", file, "--out", str(tmp_path / "runs")]) == 0
    place = tmp_path / "runs" / "tiny" / "seed0"
    plain, off, on = (json.loads((place / arm / "results.json").read_text())[0] for arm in ("baseline", "off", "on"))
    assert off["frechet"] == plain["frechet"] != on["frechet"]
    assert (plain["calls"], off["calls"], on["calls"]) == (2.0, 2.0, 5.0)  # of two levels one lies within the interval
    assert (plain.get("class_accuracy"), plain["scheduler"], on["scheduler"]) == (None, "ddim", "ddim")
    assert 0 <= on["class_accuracy"] <= 1
    setting = StudyResults.read(tmp_path / "runs" / "few.json").settings["tiny"]
    assert [row[0] for row in setting.table("distance").rows] == ["baseline", "off", "on", "left"]
    assert [row[1] for row in setting.table("calls").rows] == ["2.0", "2.0", "5.0", "2.0"]
    measured = json.loads((place / "left" / "results.json").read_text())[0]["measures"]
    assert 0.2 < measured["ink inside"] < 0.8
    table = setting.table("measures")
    assert (table.columns, table.rows[-1]) == (["arm", "ink inside"], ["left", f"{measured['ink inside']:.3f}"])
    assert not (place / "guide" / "results.json").exists()
    changes["arms"]["on"]["sampling"]["with"][0]["weight"] = 3.0
    assert main(["study", written(tmp_path, **changes), "--out", str(tmp_path / "runs")]) == 2


def test_the_area_under_a_curve_is_that_of_the_distances_at_its_points(tmp_path):
    changes = {
        "seeds": [0, 1],
        "samplers": {"ddim": [2]},
        "arms": {
            "baseline": {"recipe": "diffusion", "start": "scratch", "curve": [0.5, 0.25]},
            "slow": {
                "recipe": "diffusion",
                "start": "scratch",
                "steps": 2,
                "curve": [0.5],
                "flags": {"trainer.ema_snapshots": 4},
            },
            "slow, narrow": {"of": "slow", "average": {"std": 0.1}},
        },
    }
    file, out = written(tmp_path, **changes), tmp_path / "runs"
    assert main(["study", file, "--out", str(out), "--arms", "slow, narrow"]) == 0
    table = StudyResults.read(out / "few.json").settings["tiny"].table("area")
    assert [row[0] for row in table.rows] == ["baseline", "slow"]  # also those that an arm needs
    assert main(["study", file, "--out", str(out)]) == 0
    setting = StudyResults.read(out / "few.json").settings["tiny"]
    names = ["baseline", "baseline at 0.5", "baseline at 0.25", "slow", "slow at 0.5", "slow, narrow"]
    assert [row[0] for row in setting.table("distance").rows] == names
    assert setting.verdicts == []
    table = setting.table("area")
    assert (table.columns, [row[0] for row in table.rows]) == (["arm", "ddim 2"], ["baseline", "slow"])
    found = {arm: [distances(out / "tiny" / f"seed{seed}" / arm, "ddim", 2)[0] for seed in (0, 1)] for arm in names}
    for row, arm in enumerate(("baseline", "slow")):  # from a half on, where both were measured
        expected = [(a + b) / 2 for a, b in zip(found[f"{arm} at 0.5"], found[arm], strict=True)]
        assert table.rows[row][1] == text_of(expected)
    assert found["slow, narrow"] != found["slow"] != found["slow at 0.5"]
    run = out / "tiny" / "seed0"
    steps = summarise(run / "slow").step
    kept = load_file(run / "slow" / "checkpoints" / f"{steps // 2:06d}" / "ema.safetensors")
    (average,) = (run / "slow at 0.5").glob("average-at-0.5-*")
    sampled = load_denoiser(average).net.state_dict()
    assert all(torch.equal(sampled[name.removeprefix("net.")], tensor) for name, tensor in kept.items())
    costs = {row[0]: int(row[2]) for row in setting.table("distance").rows}
    assert costs["slow at 0.5"] * 2 == costs["slow"] == costs["slow, narrow"] > 0


def test_the_area_is_the_trapezoids_over_their_width():
    points = {0.25: [4.0, 8.0], 0.5: [2.0, 4.0], 1.0: [1.0, 3.0]}
    runs = [
        RunSummary(
            name=f"{name}{seed}",
            folder=Path(),
            arm=name,
            method="Diffusion",
            seed=seed,
            results=(
                Result(nfe=2, scheduler="ddim", frechet=values[seed], seed=0, features="x", n=8, split="holdout"),
            ),
        )
        for name, values in {"a at 0.25": points[0.25], "a at 0.5": points[0.5], "a": points[1.0]}.items()
        for seed in (0, 1)
    ]
    (table,) = areas(Comparison.of(runs), {"a": [0.5, 0.25]}, "holdout")
    expected = [(0.25 * (4 + 2) / 2 + 0.5 * (2 + 1) / 2) / 0.75, (0.25 * (8 + 4) / 2 + 0.5 * (4 + 3) / 2) / 0.75]
    assert table.rows == [["a", text_of(expected)]]


def test_images_and_starts_of_runs_that_were_made_anew_are_refused(tmp_path, capsys):
    arms = {
        "plain": {"recipe": "diffusion"},
        "other": {"recipe": "diffusion", "flags": {"trainer.generator_optimizer.lr": 0.01}},
        "again": {"of": "plain", "sampling": {"with": [{"name": "perturbed"}]}},
        "further": {"recipe": "diffusion", "start": "plain"},
        "delta": {"recipe": "inv_diff_delta"},
    }
    out = tmp_path / "runs"

    def study(**changes):
        text = {"seeds": [0], "samplers": {"ddim": [2]}, "arms": arms | changes}
        code = main(["study", written(tmp_path, **text), "--out", str(out)])
        return code, capsys.readouterr().err.strip().splitlines()[-1]

    assert study()[0] == 0
    place = out / "tiny" / "seed0"
    assert not (place / "delta" / "results.json").exists()  # it is only added to others
    code, error = study(again={"of": "other", "sampling": {"with": [{"name": "perturbed"}]}})
    assert (code, "again holds images that other weights of 'other' made: remove it" in error) == (2, True)
    shutil.rmtree(place / "plain")
    shutil.rmtree(place / "again")
    longer = {"recipe": "diffusion", "steps": 2}
    code, error = study(plain=longer)
    assert (code, "plain was trained anew since" in error) == (2, True)
    shutil.rmtree(place / "further")
    assert study(plain=longer)[0] == 0
    shutil.rmtree(place / "plain")
    shutil.rmtree(place / "further")
    code, error = study()
    assert (code, "again holds images that other weights of 'plain' made" in error) == (2, True)


def test_calls_of_a_sampler_become_its_steps():
    flow = Denoiser(MLP(), RectifiedFlow(), "flow")
    assert [steps_of(flow, "heun", calls) for calls in (1, 3, 5)] == [1, 2, 3]
    assert steps_of(flow, "euler", 4) == 4
    with pytest.raises(ValueError, match=r"`samplers: \{heun: \[4\]\}`: no number of steps takes 4 network calls"):
        steps_of(flow, "heun", 4)


def test_a_chain_of_arms_is_measured_on_two_kinds_of_images(tmp_path):
    """A student of digits 0 and 1 is moved to 2 and 3 and asked for both; its own images are the setting's."""
    changes = {
        "settings": {
            "new": {
                "on": "tiny",
                "baseline_data": {"path": "digits", "settings": {"only": [0, 1]}},
                "data": {"path": "digits", "settings": {"only": [2, 3]}},
                "scratch": {"denoiser.net.init_args.num_class_embeds": 10},
            },
            "old": {"of": "new", "holdout": {"path": "digits:holdout", "settings": {"only": [0, 1]}}},
        },
        "seeds": [0, 1],
        "samplers": {"lcm": [2]},
        "features": {"pixels": "pixels"},
        "arms": {
            "student": {"recipe": "add", "data": "baseline"},
            "moved": {"recipe": "diffusion", "start": "student"},
        },
    }
    out = tmp_path / "runs"
    assert main(["study", written(tmp_path, **changes), "--out", str(out)]) == 0
    config = yaml.safe_load((out / "new" / "seed1" / "moved" / "config.yaml").read_text())
    assert config["data"]["init_args"]["only"] == [2, 3]
    student = yaml.safe_load((out / "new" / "seed1" / "student" / "config.yaml").read_text())
    assert student["data"]["init_args"]["only"] == [0, 1]
    found = {}
    for place, asked in (("new", [2, 3]), ("old", [0, 1])):
        for arm in ("baseline", "student", "moved"):
            run = out / place / "seed1" / arm
            assert json.loads((run / "images" / "lcm-2-n32.json").read_text())["classes"] == asked
            found[place, arm] = json.loads((run / "results.json").read_text())[0]["frechet"]
    assert len(set(found.values())) == 6
    assert not (out / "old" / "seed1" / "moved" / "checkpoints").exists()
    assert main(["study", written(tmp_path, **changes), "--out", str(out)]) == 0  # all there, and the same settings
    changes["arms"]["moved"]["start"] = "baseline"
    assert main(["study", written(tmp_path, **changes), "--out", str(out)]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"x": {"recipe": "diffusion", "start": "y"}, "y": {"recipe": "diffusion"}}}, "`start=y` must be"),
        ({"arms": {"x": {"recipe": "diffusion", "data": "mine"}}}, "`data=mine` must be setting or baseline"),
        ({"settings": {"a": {"of": "tiny"}, "tiny": {}}}, "`of=tiny` is no setting before it"),
        ({"settings": {"tiny": {}, "a": {"of": "tiny", "on": "digits"}}}, "`of=tiny`: nothing is trained here"),
    ],
)
def test_a_slip_in_a_chain_is_one_line(changes, message, tmp_path, capsys):
    assert main(["study", written(tmp_path, **changes)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"of": "nobody"}, "`of=nobody` is no arm before it that is trained"),
        ({"of": "plain", "recipe": "adt"}, "and not both"),
        ({"of": "plain", "sampling": {"guide": 3}}, "`sampling` may hold guidance, guidance_interval, with"),
        ({"of": "plain", "sampling": {"with": ["projected"]}}, "`sampling.with` must be a list such as"),
    ],
)
def test_a_slip_in_a_sampling_arm_is_one_line(arm, message, tmp_path, capsys):
    assert main(["study", written(tmp_path, arms=STUDY["arms"] | {"x": arm})]) == 2
    assert message in capsys.readouterr().err


def test_calls_that_no_sampler_makes_are_refused_before_anything_is_trained(tmp_path, capsys):
    file = written(tmp_path, samplers={"ddim": [2], "heun": [4]})
    assert main(["study", file, "--out", str(tmp_path / "out")]) == 2
    assert "use scheduler 'unipc' or 'dpm'" in error(capsys)
    assert not list(tmp_path.glob("out/tiny/seed0/*/checkpoints/*"))


def test_an_arm_that_cannot_start_is_refused_as_soon_as_its_start_is_there(tmp_path, capsys):
    last = {"recipe": "adt", "flags": {"trainer.discriminator_warmup_steps": 9}}
    file = written(tmp_path, arms=STUDY["arms"] | {"last": last})
    assert main(["study", file, "--out", str(tmp_path / "out")]) == 2
    assert re.search(r"arm 'last' on tiny: `discriminator_warmup_steps=9` must be .* below", error(capsys))
    assert [run.name for run in tmp_path.glob("out/tiny/seed0/*")] == ["baseline"]


def test_an_arm_that_is_refused_in_its_first_step_is_named(tmp_path, capsys):
    rests = {"trainer.discriminator_accuracy": 0.8}
    last = {"recipe": "wgan", "start": "scratch", "samplers": {"one call": [1]}, "flags": rests}
    file = written(tmp_path, arms=STUDY["arms"] | {"last": last})
    assert main(["study", file, "--out", str(tmp_path / "out")]) == 2
    assert "arm 'last' on tiny: `discriminator_accuracy`" in error(capsys)


def test_results_follow_the_images_that_are_measured_against(tmp_path):
    out = tmp_path / "runs"

    def distance(rows):
        images = {"path": "digits:validation", "rows": rows}
        place = {"tiny": STUDY["settings"]["tiny"] | {"validation": images}}
        arms = {"plain": {"recipe": "diffusion"}}
        changes = dict(settings=place, split="validation", seeds=[0], samplers={"ddim": [2]}, arms=arms)
        assert main(["study", written(tmp_path, **changes), "--out", str(out)]) == 0
        return distances(out / "tiny" / "seed0" / "plain", "ddim", 2)

    first, second = distance([0, 0.5]), distance([0.5, 1])
    assert (len(first), len(second)) == (1, 1)
    assert first != second
    assert distance([0, 0.5]) == first


def test_images_of_the_sources_of_one_split_are_not_measured_against_those_of_another(tmp_path):
    place = {"digits-x2": {"scratch": QUICK, "tune": QUICK, "validation": {"path": "digits:validation"}}}
    arms = {"baseline": {"recipe": "diffusion", "start": "scratch", "steps": 0.01}}
    changes = dict(settings=place, seeds=[0], samplers={"ddim": [1]}, arms=arms)
    for split in ("validation", "holdout"):
        assert main(["study", written(tmp_path, split=split, **changes), "--out", str(tmp_path / "runs")]) == 0
    kept = sorted(file.name for file in tmp_path.glob("runs/digits-x2/seed0/baseline/images/*.npy"))
    assert kept == ["ddim-1-n32-holdout.npy", "ddim-1-n32-validation.npy"]


def test_a_study_with_a_run_that_was_stopped_is_not_written(done, tmp_path, capsys):
    out = tmp_path / "runs"
    shutil.copytree(done / "runs", out)
    capsys.readouterr()
    last = max((out / "tiny" / "seed1" / "adt" / "checkpoints").iterdir())
    shutil.rmtree(last)
    command = ["study", written(tmp_path), "--out", str(out), "--print", "--write", str(tmp_path)]
    assert main(command) == 2
    assert "there is tiny, adt: seeds 0 only" in error(capsys)


def test_a_study_whose_folder_was_moved_is_printed_from_there(done, tmp_path, capsys):
    tables = []
    for out in (done / "runs", shutil.copytree(done / "runs", tmp_path / "elsewhere")):
        assert main(["study", written(tmp_path), "--out", str(out), "--print"]) == 0
        tables.append(capsys.readouterr().out.split(str(out))[0])
    assert tables[0] == tables[1]


def test_seeds_that_another_process_has_made_are_named_beside_those_of_the_tables(done, tmp_path, capsys):
    begun = done / "runs" / "tiny" / "seed2" / "plain"
    begun.mkdir(parents=True)
    command = ["study", written(tmp_path), "--out", str(done / "runs"), "--print"]
    assert main([*command, "--seeds", "1"]) == 0
    assert f"seeds 0 are there, too; one table of all: sparring study {command[1]}" in (said := error(capsys))
    assert "--seeds 0 1 --out" in said
    assert main(command) == 0
    assert "are there, too" not in error(capsys)
    shutil.rmtree(begun.parent)


def test_guides_of_other_arms_are_needed_and_come_before(tmp_path, capsys):
    guided = {"of": "plain", "sampling": {"with": [{"name": "autoguidance", "weak": "ARMS/weak/pipeline"}]}}
    arms = STUDY["arms"] | {"weak": {"recipe": "diffusion"}, "guided": guided}
    study = read_study(written(tmp_path, arms=arms))
    assert study.with_needed(["guided"]) == ["baseline", "plain", "weak", "guided"]
    assert study.partners("guided") == ["weak"]
    for late in (STUDY["arms"] | {"guided": guided, "weak": arms["weak"]}, STUDY["arms"] | {"guided": guided}):
        with pytest.raises(ValueError, match="ARMS/weak, which is no arm before it"):
            read_study(written(tmp_path, arms=late))


def test_points_of_a_curve_need_few_checkpoints(tmp_path, capsys):
    for share in (0.001, 0.3331):
        arms = {"plain": {"recipe": "diffusion", "steps": 1000.0, "curve": [share]}}
        assert main(["study", written(tmp_path, arms=arms), "--out", str(tmp_path / "runs")]) == 2
        assert "have no few checkpoints in common" in error(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"tiny": {"data": {"path": "digits", "rows": [0, 0.5]}}}}, "is for images that are measured"),
        ({"settings": {"tiny": {"holdout": {"rows": [0, 0.5]}}}}, "`path` is missing"),
        ({"settings": {"tiny": {"holdout": {"path": 3}}}}, "`path=3`"),
        ({"settings": {"tiny": {"holdout": {"path": "digits", "rows": ["0", "1"]}}}}, "two shares"),
        ({"settings": {"tiny": {"scratch": {"trainer.steps": "5"}}}}, "`trainer.steps=5`"),
        ({"samplers": None}, "`samplers` must give"),
        ({"n": 5}, "6 or more"),
        ({"arms": {"x": {"of": ["plain"]}}}, "must be the name of an arm"),
        ({"arms": {"x": {"recipe": "diffusion", "steps": 0.0001}}}, "a number of updates"),
        ({"arms": {"x": {"recipe": "diffusion", "steps": float("inf")}}}, "a factor above 0"),
        ({"arms": {"": {"recipe": "diffusion"}}}, "or be empty"),
        ({"arms": {"x": {"of": "baseline", "average": None}}}, "`average` needs `of`"),
        ({"arms": {"x": {"of": "baseline", "average": {"std": None}}}}, "`average` must be"),
        ({"arms": {"x": {"of": "baseline", "sampling": {"with": [{"name": 3}]}}}}, "`sampling.with`"),
    ],
)
def test_further_slips_are_one_line_before_anything_is_trained(changes, message, tmp_path, capsys):
    assert main(["study", written(tmp_path, **changes), "--out", str(tmp_path / "runs")]) == 2
    assert message in error(capsys)
    assert not list(tmp_path.glob("runs/tiny/seed0/*/checkpoints/*"))
