"""Made-up run folders that look like those of the demo: numbers like the measured ones, digits that get less noisy."""

import functools
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from sparring.evaluation import Verdict
from sparring.evaluation.verdict import At
from sparring.runs import RunSummary, summarise

FLOOR = 0.163
CALLS = (2, 5, 10, 50)
FRECHET = {  # arm -> scheduler -> one value for each of CALLS
    "baseline": {"ddim": (26.3, 4.05, 1.04, 0.41), "dpm": (50.9, 0.43, 0.42, 0.4)},
    "plain": {"ddim": (24.9, 3.79, 0.94, 0.38), "dpm": (48.2, 0.38, 0.37, 0.37)},
    "sadm": {"ddim": (24.1, 3.76, 0.96, 0.39), "dpm": (47.7, 0.44, 0.41, 0.4)},
    "adt": {"ddim": (19.5, 2.49, 0.54, 0.36), "dpm": (41.0, 0.42, 0.38, 0.38)},
    "ddo": {"ddim": (13.2, 0.69, 0.45, 0.6), "dpm": (33.8, 0.88, 0.88, 0.9)},
    "add": {"ddim": (1.95,), "dpm": ()},
}
METHODS = {arm: "Diffusion" if arm in ("baseline", "plain") else arm.upper() for arm in FRECHET}
SECONDS = {"baseline": 0.04, "plain": 0.04, "sadm": 0.066, "adt": 0.152, "ddo": 0.1, "add": 0.083}
TRAINING_CALLS = {"baseline": 2000, "plain": 3140, "sadm": 2300, "adt": 3140, "ddo": 2900, "add": 2800}
AT = At("ddim", 10, 0.54, 0.94, -0.4, None, 0.01, "gain", "gain", 1, "one seed: spread of the samples only", 10, 10)
VERDICTS = [
    Verdict("sadm", "With DDIM at 10 calls 0.96 against 0.94 of plain training: inside the spread.", "no gain", 1),
    Verdict("adt", "With DDIM at 10 calls 0.54 against 0.94 of plain training.", "gain", 1, (AT,)),
    Verdict("adt", "Against the best scheduler (DPM-Solver++) 0.38 and 0.37 are the same.", "no gain", 1),
    Verdict("ddo", "With DDIM at 10 calls 0.45 against 0.94 of plain training.", "gain", 1),
    Verdict("ddo", "Against the best scheduler (DPM-Solver++) 0.88 against 0.37.", "worse", 1),
    Verdict("add", "At 2 calls 1.95; plain training needs 5 calls of the best scheduler for as much.", "gain", 1),
]


@dataclass
class Demo:
    """What `write_comparison` takes."""

    runs: list[RunSummary] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=lambda: list(VERDICTS))


def grid(noise: float, seed: int = 0, size: int = 8) -> Image.Image:
    """size x size digits with noise in [0, 1], without a frame."""
    rng = np.random.default_rng(seed)
    digits = _digits()[: size * size] / 16
    noisy = (1 - noise) * digits + noise * rng.uniform(size=digits.shape)
    tiles = noisy.reshape(size, size, 8, 8).transpose(0, 2, 1, 3).reshape(size * 8, size * 8)
    return Image.fromarray((255 * tiles).astype(np.uint8))


@functools.cache
def _digits() -> np.ndarray:
    return load_digits().images


def results(arm: str) -> list[dict[str, Any]]:
    made = []
    for scheduler, values in FRECHET[arm].items():
        for nfe, frechet in zip(CALLS, values, strict=False):
            made.append(
                {
                    "nfe": nfe,
                    "scheduler": scheduler,
                    "frechet": frechet,
                    "frechet_interval": [0.93 * frechet - 0.02, 1.08 * frechet + 0.02],
                    "kernel": 0.064 * frechet - 0.01,
                    "kernel_interval": [0.06 * frechet - 0.014, 0.068 * frechet - 0.006],
                    "precision": 0.92 / (1 + 0.03 * frechet),
                    "recall": 0.9 / (1 + 0.08 * frechet),
                    "density": 0.95 / (1 + 0.05 * frechet),
                    "coverage": 0.92 / (1 + 0.09 * frechet),
                    "n": 1000,
                    "n_reference": 500,
                    "features": "digits-classifier",
                    "images_per_second": 5200 / nfe,
                    "floor": {"frechet": FLOOR, "kernel": -0.002, "precision": 0.93, "recall": 0.94},
                }
            )
    return made


def make_run(path: Path, *, seed: int = 0, steps: int = 300, factor: float = 1.0) -> RunSummary:
    """Writes one run folder named after its arm, with its distances times `factor`; returns what is read of it."""
    arm = path.name
    rng = np.random.default_rng([seed, *arm.encode()])
    steps = 2000 if arm == "baseline" else steps
    (path / "samples").mkdir(parents=True)
    config = {
        "method": {"class_path": f"sparring.methods.{METHODS[arm]}", "init_args": {"weight": 0.5}},
        "trainer": {"seed": seed, "steps": steps, "batch_size": 128},
        "data": {"class_path": "sparring.data.Digits", "init_args": {"split": "train"}},
        "made_with": {
            "command": f"sparring fit {arm}-digits --trainer.seed {seed} --out runs/demo/{arm}",
            "versions": {"sparring": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
        },
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(10, steps + 1, 10):
            done = step / steps
            record = {
                "step": step,
                "generator/diffusion": 0.08 + 0.5 * math.exp(-8 * done) + 0.01 * rng.normal(),
                "gradient_norm/generator": 0.4 + 0.1 * rng.random(),
                "skipped": 0,
                "seconds_per_step": SECONDS[arm] * (1 + 0.05 * rng.normal()),
            }
            if METHODS[arm] != "Diffusion":
                record |= {
                    "generator/adversarial": 0.8 + 0.2 * done + 0.05 * rng.normal(),
                    "discriminator/adversarial": 1.3 - 0.4 * done + 0.05 * rng.normal(),
                    "discriminator/r1": 0.02 * rng.random(),
                    "statistics/logit_real": 0.9 * done + 0.1 * rng.normal(),
                    "statistics/logit_fake": -0.7 * done + 0.1 * rng.normal(),
                    "statistics/accuracy": 0.5 + 0.25 * done + 0.02 * rng.normal(),
                    "gradient_norm/discriminator": 1.4 + 0.3 * rng.random(),
                }
            if arm == "sadm":
                record |= {"discriminator/structure": 0.3 + 0.1 * done, "generator/structure": 0.25 - 0.1 * done}
            file.write(json.dumps(record) + "\n")
    for step in range(0, steps + 1, steps // 5):
        grid(0.9 - 0.7 * step / steps if arm == "baseline" else 0.3, seed).save(path / "samples" / f"{step:06d}.png")
        if arm == "add":
            grid(0.5 * step / steps, seed).save(path / "samples" / f"field-{step:06d}.png")
    made = [result | {"frechet": factor * result["frechet"]} for result in results(arm)]
    for result in made:
        noise = min(0.9, 0.05 * result["frechet"])
        grid(noise, seed).save(path / "samples" / f"final-{result['scheduler']}-{result['nfe']}.png")
    grid(0.1, seed, 6).save(path / "neighbours.png")
    (path / "results.json").write_text(json.dumps(made))
    checkpoint = path / "checkpoints" / f"{steps:06d}"
    checkpoint.mkdir(parents=True)
    state = {"step": steps, "network_calls": TRAINING_CALLS[arm], "seconds": SECONDS[arm] * steps}
    (checkpoint / "state.json").write_text(json.dumps(state))
    return summarise(path)


def changed(run: RunSummary, **changes: Any) -> RunSummary:
    """The run with each of its results changed in the same way."""
    return replace(run, results=tuple(replace(result, **changes) for result in run.results))
