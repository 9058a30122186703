"""Normal runs use nothing of torch, diffusers, transformers … that these have announced to take away."""

import io
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

COMMANDS = """
import json, logging, sys, warnings

import sparring.cli.terminal

sparring.cli.terminal.quiet = lambda: None  # which keeps from users what this test is about
from sparring.cli.main import main

told = []


def show(message, kind, file, line, *_):
    if issubclass(kind, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
        told.append(f"{kind.__name__}: {message} ({file}:{line})")


class Told(logging.Handler):
    def emit(self, record):
        if "deprecat" in (message := record.getMessage()).lower():
            told.append(f"{record.name}: {message}")


warnings.simplefilter("always")
warnings.showwarning = show
for name in ("torch", "diffusers", "transformers", "peft", "datasets", "accelerate", "huggingface_hub"):
    logging.getLogger(name).addHandler(Told())
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
logging.getLogger("diffusers.models").warning("deprecated: seen")
warnings.warn("seen", FutureWarning)
print(json.dumps(told))
"""
SHORT = ["--trainer.steps=1", "--trainer.num_samples=1", "--trainer.tracker=tensorboard"]


def told_by(commands, folder):
    """What is announced while the commands run, in a process of their own."""
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPARRING_CACHE": str(folder / "cache")}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    *told, logged, warned = json.loads(done.stdout.splitlines()[-1])
    assert logged == "diffusers.models: deprecated: seen"
    assert warned.startswith("FutureWarning: seen")
    return told


def test_of_a_unet(tmp_path):
    fit = ["fit", "sadm", "--on", "tiny", "--out", "run", *SHORT]
    sample = ["sample", "run", "--n", "2", "--steps", "2", "--out", "grid.png"]
    evaluate = ["evaluate", "run", "--n", "16", "--steps", "2"]
    assert told_by([fit, sample, evaluate], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "setting", "size"), [("sd15", "sd15", 16), ("sana", "sana", 32)])
def test_of_a_text_to_image_pipeline(tiny, tmp_path, kind, setting, size):
    random, rows = np.random.default_rng(0), []
    for letter in "abcdefghijklmnopqrst":
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(file, "png")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "text": f"picture {letter}"})
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(tmp_path / "data.parquet"))
    data = ["--data.path", "data.parquet", f"--data.size={size}", "--data.holdout_share=0.5"]
    fit = ["fit", "diffusion", "--on", setting, "--init", str(tiny(kind)), *data, "--out", "run", *SHORT]
    fit += ["--trainer.batch_size=2", "--trainer.accumulation=1"]
    sample = ["sample", "run", "--n", "1", "--steps", "2", "--prompt", "a red apple", "--out", "grid.png"]
    evaluate = ["evaluate", "run", "--n", "6", "--steps", "2", "--features", "pixels"]
    assert told_by([fit, sample, evaluate], tmp_path) == []
