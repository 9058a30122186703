"""What tuning changes at each noise level: the tables of docs/results/limits.md.

    python docs/experiments/levels.py digits plain-calls sadm sadm-frozen adt ddo --seeds 0 1 2

The runs are those of `sparring study` (--runs). The first arm is the control. On held-out images with the same noise,
at one log-SNR after the other:

- error: the mean squared error of the predicted clean image, over that of the control;
- moved: the mean squared difference from the control's prediction, over the control's error. A model that moved without
  learning or losing anything about the images, off the posterior mean, has an error of 1 + moved;
- share: the norm of the adversarial gradient over that of the denoising gradient, both by the network's output;
- agreement: the cosine between the two, image by image (1: the discriminator asks for what denoising asks for).

The last two are those of SADM's runs, whose adversarial term belongs to one noise level.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from sparring import load_generator
from sparring.data import Batch, Draws, HubData, ImageData
from sparring.methods import SADM
from sparring.process import Times
from sparring.recipes.recipe import rebuild
from sparring.rollout import noise

LEVELS = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)


class Level(Times):
    """One log-SNR for all rows."""

    def __init__(self, log_snr: float):
        self.log_snr = log_snr

    def __call__(self, process: Any, draws: Draws, n: int) -> Tensor:
        return process.snap(process.t_from_log_snr(torch.full((n,), self.log_snr)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", metavar="SETTING", help="setting of the study")
    parser.add_argument("arms", nargs="+", help="the control first")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--images", help="file or folder of held-out images; by default those that the data names")
    parser.add_argument("--size", type=int, help="their size in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args(argv)
    folders = {arm: [args.runs / args.place / f"seed{seed}" / arm for seed in args.seeds] for arm in args.arms}
    control, *others = args.arms
    data = HubData(args.images, size=args.size) if args.images else held_out(folders[control][0])
    batches = list(data.images(min(len(data), 512)).split(64))
    found: dict[str, dict[str, list[list[float]]]] = {}  # table, arm, seed, level
    for number in range(len(args.seeds)):
        base = predictions(folders[control][number], batches)
        for arm in others:
            rows = map(ratios, predictions(folders[arm][number], batches), base)
            for name, values in zip(("error", "moved"), zip(*rows, strict=True), strict=True):
                found.setdefault(name, {}).setdefault(arm, []).append(list(values))
            gradients = gradients_of(folders[arm][number], batches)
            for name, values in zip(("share", "agreement"), zip(*gradients, strict=True), strict=False):
                found.setdefault(name, {}).setdefault(arm, []).append(list(values))
    for name, arms in found.items():
        print(f"\n{name}\n\n| log-SNR | " + " | ".join(f"{level:+.0f}" for level in LEVELS) + " |")
        print("|---|" + "--:|" * len(LEVELS))
        for arm, seeds in arms.items():
            print(f"| {arm} | " + " | ".join(cell(values) for values in zip(*seeds, strict=True)) + " |")


def held_out(run: Path) -> ImageData:
    """The held-out images of a run's data."""
    data = rebuild(run, []).data.holdout()
    if data is None:
        raise SystemExit(f"the data of {run} holds no images out: name some with --images")
    return data


def predictions(run: Path, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """At each level, the predicted clean images of a run's EMA and their errors [n]."""
    denoiser: Any = load_generator(run)
    clean, found = torch.cat(batches), []
    for level in LEVELS:
        predicted = []
        with torch.no_grad():
            for number, images in enumerate(batches):
                noised = noise(denoiser.process, *at_level(denoiser, images, number, level))
                predicted.append(denoiser(noised.x_t, noised.t, None).x0)
        together = torch.cat(predicted)
        found.append((together, (together - clean).square().flatten(1).mean(1)))
    return found


def ratios(own: tuple[Tensor, Tensor], control: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """`error` and `moved` of predictions against those of the control."""
    (predicted, error), (before, base) = own, control
    return float(error.mean() / base.mean()), float((predicted - before).square().mean() / base.mean())


def gradients_of(run: Path, batches: list[Tensor]) -> list[tuple[float, float]]:
    """`share` and `agreement` at each level with the players of the last step; none for a method without one level."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(run, Path(folder) / run.name)  # going on writes to the folder
        trainer = rebuild(copy, [])
        trainer.resume(None)
        method = trainer.method
        return [gradient(method, batches, level) for level in LEVELS] if isinstance(method, SADM) else []


def gradient(method: SADM, batches: list[Tensor], log_snr: float) -> tuple[float, float]:
    """`share` and `agreement` at one level, means over images."""
    method.times = Level(log_snr)
    shares, cosines = [], []
    for number, images in enumerate(batches):
        batch, _ = at_level(method.generator, images, number, log_snr)
        rollout = method.rollout(batch)
        losses = method.generator_loss(batch, rollout)
        output = rollout.step.prediction.output
        adversarial, denoising = (
            torch.autograd.grad(losses[name], output, retain_graph=True)[0].flatten(1)
            for name in ("structure", "diffusion")
        )
        shares.append(adversarial.norm() / denoising.norm())
        cosines.append(torch.cosine_similarity(adversarial, denoising, dim=1).mean())
    return float(torch.stack(shares).mean()), float(torch.stack(cosines).mean())


def at_level(denoiser: Any, images: Tensor, number: int, log_snr: float) -> tuple[Batch, Tensor]:
    """A batch with noise of its own number, the same for every run, and its times."""
    batch = Batch(images, draws=Draws(0, step=number, phase=f"log-SNR {log_snr}"))
    return batch, Level(log_snr)(denoiser.process, batch.draws, len(batch))


def cell(values: tuple[float, ...]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.2f}" + (f"±{stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
