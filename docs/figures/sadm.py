"""The figure of docs/methods/sadm.md: a batch, its one-step predictions, and the two affinity matrices at three levels.

    python docs/figures/sadm.py runs/base

RUN is a run of `sparring fit diffusion --on digits`.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Digits, Draws
from sparring.generators import Pretrained
from sparring.objectives import structure_distance
from sparring.process import Sigmoid
from sparring.rollout import noise

OUT = Path(__file__).resolve().parents[1] / "images" / "sadm.png"
DIGITS, EACH = (0, 1, 6), 4  # images of the batch, sorted so that its structure can be seen
LOG_SNR = (2.0, 0.0, -3.0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", type=Path, default=OUT, help="the figure")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data = Digits()
    encoder = SmallConvNet(in_channels=1, num_classes=10)
    encoder.prepare(data.images(), data.labels())
    draw(Pretrained(args.run).eval(), encoder, batch_of(data), args.out)


def batch_of(data: Digits) -> Tensor:
    labels = data.labels()
    rows = [(labels == digit).nonzero().flatten()[:EACH] for digit in DIGITS]
    return data.images()[torch.cat(rows)]


@torch.no_grad()
def draw(denoiser: Pretrained, encoder: SmallConvNet, images: Tensor, path: Path) -> None:
    """A row for each level: what the denoiser saw and made, its matrix, and the difference from the real one."""
    z_real = encoder.features(images)
    figure = plt.figure(figsize=(9.6, 7.2), layout="constrained")
    grid = figure.add_gridspec(len(LOG_SNR) + 1, 4)
    show_images(figure.add_subplot(grid[0, 1]), images, "real batch $x_0$")
    show_matrix(figure.add_subplot(grid[0, 2]), cosines(z_real), "$A$: cosines of the real images")
    for row, log_snr in enumerate(LOG_SNR, start=1):
        t = denoiser.process.t_from_log_snr(torch.full((len(images),), log_snr))
        noised = noise(denoiser.process, Batch(images, draws=Draws(0)), t)
        x_0_pred = denoiser(noised.x_t, t).x0
        z_fake = encoder.features(x_0_pred)
        weight = Sigmoid(bias=0.0)(denoiser.process.log_snr(t))
        plain = structure_distance(z_real, z_fake, torch.ones_like(weight))
        distance = structure_distance(z_real, z_fake, weight)
        where = f"log-SNR {log_snr:g}"
        scale = denoiser.process.alpha(t).square().add(denoiser.process.sigma(t).square()).sqrt()[0]
        show_images(figure.add_subplot(grid[row, 0]), noised.x_t / scale, f"noisy batch $x_t$, {where}")
        show_images(figure.add_subplot(grid[row, 1]), x_0_pred, "its predictions $\\hat x_0$")
        show_matrix(figure.add_subplot(grid[row, 2]), cosines(z_fake), "$\\hat A$: cosines of the predictions")
        difference = (cosines(z_real) - cosines(z_fake)).abs()
        name = f"$|A - \\hat A|$, mean {plain:.3f}\n$S$ = weight {weight[0]:.2f} $\\times$ {plain:.3f} = {distance:.3f}"
        show_matrix(figure.add_subplot(grid[row, 3]), difference, name, "magma")
    figure.savefig(path, dpi=110)


def cosines(z: Tensor) -> Tensor:
    z = F.normalize(z, dim=1)
    return z @ z.T


def show_images(axes: plt.Axes, images: Tensor, title: str) -> None:
    """Grey images, a row for each digit."""
    padded = F.pad(images[:, 0], (0, 1, 0, 1), value=1).unflatten(0, (len(DIGITS), EACH))
    picture = padded.transpose(1, 2).flatten(2).flatten(0, 1)
    axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def show_matrix(axes: plt.Axes, matrix: Tensor, title: str, colours: str = "RdBu_r") -> None:
    low = 0.0 if colours == "magma" else -1.0
    shown = axes.imshow(matrix, cmap=colours, vmin=low, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.figure.colorbar(shown, ax=axes, shrink=0.8)


if __name__ == "__main__":
    main()
