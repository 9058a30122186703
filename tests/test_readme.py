"""What the README shows works: its Python example runs as printed, with fewer steps."""

import json
import re
import runpy
import sys
from pathlib import Path

from sparring.cli.main import main

README = Path(__file__).resolve().parents[1] / "README.md"


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


def test_links_lead_somewhere():
    for page in [README, *README.parent.glob("docs/**/*.md"), README.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
