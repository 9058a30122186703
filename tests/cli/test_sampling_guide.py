"""What docs/guides/sampling.md says to type does what it says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs/guides/sampling.md").read_text(encoding="utf-8")
QUICK = {
    "fit": [
        "--trainer.steps",
        "2",
        "--trainer.num_samples",
        "4",
        "--trainer.sample_every",
        "1",
        "--trainer.tracker",
        "none",
    ],
    "sample": [],
    "evaluate": ["--n", "20", "--features", "pixels"],
}


def short(text: str) -> str:
    """With small numbers in the place of large ones."""
    return re.sub(r"\b(500|1000|250|64)\b", "4", text)


@pytest.mark.slow
def test_its_commands_and_its_python_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for line in re.findall(r"^    sparring (.*)$", PAGE, flags=re.MULTILINE) if "PIPELINE" not in line]
    assert len(commands) > 12
    for command in commands:
        name, *words = shlex.split(short(command), comments=True)
        assert main([name, *words, *QUICK[name]]) == 0, command
    assert np.load("images.npz")["arr_0"].shape == (4, 8, 8, 1)
    assert len(list(Path("images").iterdir())) == 4
    with Image.open("path.gif") as path, Image.open("training.gif") as training:
        assert (path.n_frames, training.n_frames) == (21, 3)
    assert "<svg" in Path("runs/base/report.html").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(short(block), "docs/guides/sampling.md", "exec"), names)
    said = capsys.readouterr().out
    assert "'label': [0, 1, 2, 3]" in said
    assert names["images"].shape == (16, 1, 8, 8)
    assert (names["found"].nfe, names["found"].calls) == (10, 20)
    assert names["batch"].shape == (4, 1, 8, 8)
