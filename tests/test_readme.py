"""What README and docs show works: Python examples run as printed, with fewer steps; links lead somewhere; words."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from sparring.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
AVOIDED = {
    r"in the eyes of": "measured by, in the features of",
    r"(is|are|was|were) told|told the|told its": "conditioned on, takes",
    r"(classified|classifies) rightly": "classified correctly",
    r"critics?": "discriminator",
    r"adversary": "discriminator",
    r"in small": "small-scale",
    r"the dearest arm": "the most expensive run",
    r"take leave": "end together",
}
"""What the house does not say: a pattern, and what to say instead."""


def test_python_example_runs_and_its_run_is_sampled_measured_and_tuned(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "steps=500" in block
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own.py").write_text(block.replace("steps=500", "steps=2"))
    made = runpy.run_path("own.py", run_name="__main__")
    assert made["images"].shape == (16, 1, 8, 8)
    run = tmp_path / "runs" / "own"
    assert (run / "checkpoints" / "000002" / "discriminator.safetensors").is_file()

    assert main(["sample", "runs/own", "--n", "4", "--out", "grid.png"]) == 2
    assert "if you trust it, add --allow own" in capsys.readouterr().err
    trusted = ["--allow", "own"]
    assert main(["sample", "runs/own", "--n", "4", "--out", "grid.png", *trusted]) == 0
    assert main(["evaluate", "runs/own", "--n", "20", "--steps", "2", "--features", "pixels", "--json", *trusted]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reference"] == "digits:holdout"
    fit = ["fit", "diffusion", "--on", "digits", "--out", "tuned", "--trainer.batch_size=8", *trusted]
    short = ["--trainer.steps=2", "--trainer.tracker=null", "--trainer.num_samples=1"]
    assert main([*fit, "--init", "runs/own", *short]) == 0
    assert main([*fit, "--resume", "--trainer.steps=3"]) == 0
    assert main(["sample", "tuned", "--n", "4", "--out", "tuned.png", *trusted]) == 0
    sys.modules.pop("own", None)


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block.replace("steps=500", "steps=2"), "docs/python.md", "exec"), names)
    assert [path.parent.parent.name for path in sorted(tmp_path.glob("runs/*/checkpoints/000002"))] == [
        "python",
        "python-adt",
    ]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_each_fault_is_held_by_tests_and_mutants_that_are_there():
    """Or by a sentence on why it is not."""
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    mutants = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests/mutants").glob("*.yaml"))
    rows = re.findall(r"^\| (.*) \| (.*) \|$", (ROOT / "docs/faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    rows = [row for row in rows if row != ("what went wrong", "held by")]
    assert len(rows) > 70
    for fault, held in rows:
        named = re.findall(r"`(test_\w+)`", held)
        changed = re.findall(r"`([a-z0-9-]+)`", held.partition("mutant")[2])
        assert named or changed or held.startswith(("Not changed: ", "No test: ")), fault
        assert [name for name in named if f"def {name}(" not in tests] == [], fault
        assert [name for name in changed if f"- name: {name}\n" not in mutants] == [], fault


@pytest.mark.parametrize("avoided", AVOIDED)
def test_the_fields_words_are_used(avoided):
    pattern = re.compile(rf"\b({avoided})\b", re.IGNORECASE)
    files = [*PAGES, *sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "src").rglob("*.yaml"))]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"say: {AVOIDED[avoided]}\n" + "\n".join(found)
