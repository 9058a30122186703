"""The experiments behind docs/results.md: their arms are settings that exist, and a small one runs from end to end."""

import importlib
import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sparring.data import Digits, StoredImages
from sparring.recipes import recipe
from sparring.recipes.compose import compose

SCRIPTS = ("digits_results", "sadm_results", "adt_results")
FIGURES = ("changes_figure", "samples_figure", "training_figure")


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
        yield {name: importlib.import_module(name) for name in ("arms", *SCRIPTS, *FIGURES)}


def test_every_arm_names_settings_that_exist(scripts):
    arms = [
        (name, arm)
        for script in SCRIPTS
        for table in scripts[script].TABLES.values()
        for name, arm in table.arms.items()
    ]
    tried = []
    for name, arm in arms:
        if arm in tried:
            continue
        tried.append(arm)
        settings = compose(arm.method or "diffusion", "digits", tuned=bool(arm.method))
        if arm.method:
            settings |= {"denoiser": {"path": "anywhere"}}
        recipe.parse(settings, [*scripts["arms"].SETS["digits"].shared, *arm.flags], tuned=bool(arm.method)), name


def test_a_table_from_training_to_markdown(scripts, tmp_path, monkeypatch, capsys):
    arms = scripts["arms"]
    quick = ["--trainer.steps=2", "--trainer.num_samples=4"]
    images, labels = Digits()[list(range(200))]
    halves = [StoredImages(images[rows], labels[rows]) for rows in (slice(0, 100), slice(100, 200))]
    small = replace(
        arms.SETS["digits"],
        baseline=["diffusion", "--on", "digits", *quick],
        shared=quick,
        n=32,
        plan=[("ddim", 2), ("euler", 3)],
        real=lambda _, split: tuple(halves),
    )
    monkeypatch.setitem(arms.SETS, "digits", small)
    # networks that have learned next to nothing will do
    monkeypatch.setattr(arms, "learned_features", partial(arms.learned_features, epochs=1))
    monkeypatch.setattr(arms, "SmallConvNet", partial(arms.SmallConvNet, epochs=1))
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    table = arms.Table("digits", {"plain": arms.Arm("diffusion"), "twice": arms.Arm("diffusion", steps=1 / 150)})
    words = ["few", "--out", str(tmp_path / "runs"), "--seeds", "0"]
    arms.command("", {"few": table}, words)
    printed = capsys.readouterr().out
    spaces = ("classifier 32-64-64", "the judge's encoder", "self-supervised 32-64-64", "pixels pooled to 4x4")
    for space in (f"{space}, holdout" for space in spaces):
        assert f"digits, {space}; n = 32 against 100" in printed
    assert printed.count("| plain | ") == 9  # distances in four spaces, precision and recall, ratios to the baseline
    assert printed.count("| twice | ") == 13  # and ratios to plain
    assert "| ddim 2 | euler 3 |" in printed
    assert re.search(r"precision/recall.*\n\n.*\n.*\n\| baseline \| [01]\.\d\d/[01]\.\d\d \|", printed)

    run = tmp_path / "runs" / "digits" / "seed0" / "plain"
    results = json.loads((run / "results.json").read_text())
    assert len(results) == 8
    written = (run / "results.json").stat().st_mtime_ns
    arms.command("", {"few": table}, words)
    assert (run / "results.json").stat().st_mtime_ns == written  # what is finished is kept
    assert capsys.readouterr().out.split("digits,", 1)[1] == printed.split("digits,", 1)[1]

    module = ModuleType("few_results")
    module.TABLES = {"few": table}
    monkeypatch.setitem(sys.modules, "few_results", module)
    where = ["--runs", str(tmp_path / "runs"), "--out"]
    scripts["changes_figure"].main(
        ["few_results", "few", "--control", "plain", "--seeds", "0", *where, str(tmp_path / "changes.png")]
    )
    scripts["samples_figure"].main(
        ["digits", "euler-3", "plain", "twice", "--columns", "4", *where, str(tmp_path / "samples.png")]
    )
    scripts["training_figure"].main(
        ["digits", "plain", "twice", "--seeds", "0", *where, str(tmp_path / "training.png")]
    )
    for name in ("changes", "samples", "training"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert picture.std() > 10  # something is drawn
