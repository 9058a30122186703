"""The two figures of docs/methods/adt.md: a rollout from every start of its path, and the coefficients of its gradient.

    python docs/figures/adt.py runs/base

RUN is a run of `sparring fit diffusion --on digits`.
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser, Pretrained
from sparring.generators.loop import Walk
from sparring.process import VP, Kind, Process, RectifiedFlow
from sparring.rollout import coefficients, standard_normal

IMAGES = Path(__file__).resolve().parents[1] / "images"
NETWORKS: dict[str, tuple[Process, Kind, str]] = {
    "eps, VP linear": (VP(schedule="linear"), "eps", "ddim"),
    "v, VP linear": (VP(schedule="linear"), "v", "ddim"),
    "v, VP cosine": (VP(schedule="cosine"), "v", "ddim"),
    "flow, rectified": (RectifiedFlow(), "flow", "euler"),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--steps", type=int, default=5, help="length of the simulated path (5)")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the figures")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    draw_rollouts(Pretrained(args.run), args.steps, args.out / "adt-rollout.png")
    draw_coefficients(20, args.out / "adt-coefficients.png")


@torch.no_grad()
def walk(denoiser: Denoiser, batch: Batch, num_steps: int, start: int) -> list[Tensor]:
    """The states [B, C, H, W] of DDIM on the path from `start` on, the image at the end: `simulate`, step by step."""
    path = Walk(denoiser.process.scheduler("ddim", denoiser.prediction), num_steps, start=start)
    states: list[Tensor] = []
    output = partial(denoiser.step_output, path, batch.condition, denoiser.predict)
    path.run(path.noised(batch.x_0, standard_normal(batch)), output, watch=states.append)
    return states


def draw_rollouts(denoiser: Denoiser, num_steps: int, path: Path) -> None:
    """Two digits side by side; a row for each start: the noised image, the states, the fake, and its real reference."""
    data = Digits()
    images, labels = data[[3, 11]]
    batch = Batch(images, labels if denoiser.takes_labels else None)
    columns = num_steps + 2
    figure, axes = plt.subplots(num_steps, 2 * columns + 1, figsize=(13, 4.4))
    for axis in axes.flat:
        axis.set_axis_off()
    for row in range(num_steps):
        batch.draws = Draws(1, phase="figure")
        states = walk(denoiser, batch, num_steps, row)
        for digit in range(2):
            for place, state in enumerate([*states, batch.images], start=row):
                show(axes[row, digit * (columns + 1) + place], state[digit, 0], place, num_steps)
    for digit in range(2):
        for place in range(columns):
            title = {num_steps: "fake", num_steps + 1: "real"}.get(place, f"$x_{{{num_steps - place}}}$")
            axes[0, digit * (columns + 1) + place].set_title(title, fontsize=12)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.01, wspace=0.08, hspace=0.08)
    save(figure, path)


def show(axis: plt.Axes, image: Tensor, place: int, num_steps: int) -> None:
    axis.imshow(image.clamp(-1, 1), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    colour = {num_steps: "tab:red", num_steps + 1: "tab:green"}.get(place, "0.7")
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=3 if place >= num_steps else 1)


def draw_coefficients(num_steps: int, path: Path) -> None:
    """|c_i| over the steps of a path, for first-order samplers and for DPM-Solver++ 2M."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    steps = range(1, num_steps + 1)
    for axis, solver in zip(axes, (None, "dpm"), strict=True):
        for name, (process, kind, first_order) in NETWORKS.items():
            c = coefficients(process.scheduler(solver or first_order, kind), num_steps)
            label = f"{name} ({first_order})" if solver is None else name
            axis.semilogy(steps, [abs(x) for x in c], "o-", markersize=3, linewidth=1.2, label=label)
        axis.set_title("DDIM, Euler" if solver is None else "DPM-Solver++ 2M", fontsize=11)
        axis.set_xlabel("step, from noise (1) to image")
        axis.set_xticks([1, 5, 10, 15, 20])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("$|c_i|$")
    figure.tight_layout()
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main()
