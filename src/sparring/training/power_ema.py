"""Power-function averages of the weights, and any other of them afterwards, from snapshots of two (EDM2)."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.runs.checkpoint import save_tensors
from sparring.training.ema import EMA, state_tensors

STDS = (0.05, 0.10)  # that are tracked, as in EDM2
COPIED = "copied"  # what no average mixes, in a snapshot
FARTHEST = 0.3  # of a mix from the profile that is wanted, over its size (our choice)
LARGEST = 0.28  # std; at 1 / sqrt(12) = 0.289 all weights of the run count alike


def exponent_of(std: float) -> float:
    """gamma of a profile t^gamma on [0, 1] of that standard deviation: the largest root of

    `g^3 + 7 g^2 + (16 - std^-2) g + (12 - std^-2) = 0`. Source: Karras et al. 2024 (arXiv 2312.02696), Appendix C.

    Raises:
        ValueError: std outside (0, 0.28].
    """
    if not 0 < std <= LARGEST:
        raise ValueError(f"`std={std}` must lie above 0 and up to {LARGEST}: it is a share of the run")
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


class PowerEMA(EMA):
    """The average of all weights since the start with the profile t^gamma: its length grows with the run.

    Update number n does `copy <- beta copy + (1 - beta) module` with `beta = (1 - 1 / n)^(gamma + 1)`. Source: Karras
    et al. 2024 (arXiv 2312.02696).

    Args:
        module: the network that is trained.
        std: standard deviation of the profile, as a share of the run so far.
        copied: see `EMA`.
    """

    def __init__(self, module: nn.Module, std: float, copied: Collection[str] = ()) -> None:
        super().__init__(module, copied=copied)
        self.std, self.exponent = std, exponent_of(std)

    def beta(self) -> float:
        return (1 - 1 / (self.updates + 1)) ** (self.exponent + 1)


class PowerAverages:
    """The averages that `sparring ema` makes others of, and their snapshots in the run folder.

    Args:
        module: the generator that is trained.
        snapshots: how many over the run, at most one a step, the last at its end; 0: nothing is averaged or written.
        steps: of the run.
        folder: of the snapshots.
        copied: see `EMA`.
    """

    def __init__(
        self, module: nn.Module, snapshots: int, steps: int, folder: Path, copied: Collection[str] = ()
    ) -> None:
        if snapshots < 0:
            raise ValueError(f"`ema_snapshots={snapshots}` must be 0 (none) or more")
        self.averages = [PowerEMA(module, std, copied) for std in STDS] if snapshots else []
        self.copied = copied
        self.share = snapshots / steps
        self.folder = folder

    def update(self) -> None:
        for average in self.averages:
            average.update()

    def state(self, changing: set[str]) -> dict[str, dict[str, Tensor]]:
        """For a checkpoint: what of each average changes, of the generator's tensors with these names."""
        return {
            f"ema_{average.std:.3f}": {k: v for k, v in state_tensors(average.module).items() if k in changing}
            for average in self.averages
        }

    def due(self, step: int) -> bool:
        """Whether a snapshot is written after this step."""
        return bool(self.averages) and int(step * self.share + 1e-9) > int((step - 1) * self.share + 1e-9)

    def write(self, step: int, changing: set[str]) -> None:
        """Writes a snapshot."""
        self.folder.mkdir(exist_ok=True)
        averages = self.state(changing)
        tensors = {f"{a}/{k}": v for a, state in averages.items() for k, v in state.items() if k not in self.copied}
        tensors |= {f"{COPIED}/{k}": v for state in averages.values() for k, v in state.items() if k in self.copied}
        draft = self.folder / f".{step:07d}.safetensors"
        save_tensors(draft, tensors)
        draft.replace(self.folder / f"{step:07d}.safetensors")

    def forget_after(self, step: int) -> None:
        """Removes snapshots of steps that a run which goes on from `step` makes again."""
        for file in snapshots_in(self.folder):
            if int(file.stem) > step:
                file.unlink()


def snapshots_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"))


def correlation(step_a: Any, exponent_a: Any, step_b: Any, exponent_b: Any) -> Any:
    """Inner products of profiles `(gamma + 1) t^gamma / step^(gamma + 1)` on [0, step], of broadcast arrays."""
    ratio, longer = step_a / step_b, np.maximum(step_a, step_b)
    power = np.where(step_a < step_b, exponent_b, -exponent_a)
    return (exponent_a + 1) * (exponent_b + 1) * ratio**power / ((exponent_a + exponent_b + 1) * longer)


def weights_for(steps: list[int], stds: list[float], std: float) -> list[float]:
    """Weights of snapshots, of sum 1, whose mix is nearest to the average with another profile (least squares).

    Args:
        steps: after which each snapshot was taken.
        stds: of their profiles.
        std: of the profile that is wanted, which ends at the last snapshot.
    """
    t, g = np.array(steps, float), np.array([exponent_of(one) for one in stds])
    products = correlation(t[:, None], g[:, None], t[None], g[None])
    wanted = correlation(t, g, float(max(steps)), exponent_of(std))
    found = np.linalg.lstsq(products, wanted, rcond=None)[0]
    return list(found / found.sum())


def distance(weights: list[float], steps: list[int], stds: list[float], std: float) -> float:
    """How far the mix of `weights_for` is from the profile that is wanted, over the size of that: root mean squares."""
    t, g, x = np.array(steps, float), np.array([exponent_of(one) for one in stds]), np.array(weights)
    end, wanted = t.max(), exponent_of(std)
    size = correlation(end, wanted, end, wanted)
    mixed = x @ correlation(t[:, None], g[:, None], t[None], g[None]) @ x
    return float(max(0.0, size - 2 * x @ correlation(t, g, end, wanted) + mixed) / size) ** 0.5


def reconstruct(folder: Path, std: float) -> dict[str, Tensor]:
    """The tensors of a generator, averaged with a profile of that standard deviation at the last snapshot.

    Raises:
        ValueError: no snapshots, a damaged one, or too few for this profile; what `exponent_of` refuses.
    """
    files = snapshots_in(folder)
    exponent_of(std)
    if not files:
        raise ValueError(f"{folder} holds no snapshots of averages: train with --trainer.ema_snapshots 32")
    steps = [int(file.stem) for file in files for _ in STDS]
    stds = list(STDS) * len(files)
    weights = weights_for(steps, stds, std)
    if (far := distance(weights, steps, stds, std)) > FARTHEST:
        raise ValueError(
            f"`std={std}`: the mix of {len(files)} snapshots is {far:.0%} away from that profile: take a width nearer "
            f"to {STDS[0]} and {STDS[1]}, or train with more --trainer.ema_snapshots"
        )
    made: dict[str, Tensor] = {}
    try:
        for number, file in enumerate(files):
            tensors = load_file(file)
            for weight, tracked in zip(weights[len(STDS) * number :], STDS, strict=False):
                prefix = f"ema_{tracked:.3f}/"
                for key, tensor in tensors.items():
                    if key.startswith(prefix):
                        name = key.removeprefix(prefix)
                        made[name] = made.get(name, torch.zeros((), dtype=torch.float64)) + weight * tensor.double()
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the snapshots in {folder} could not be read ({' '.join(str(error).split())})") from None
    last = {name: tensors[f"ema_{STDS[0]:.3f}/{name}"] for name in made}
    mixed = {name: made[name].to(one.dtype) if one.is_floating_point() else one for name, one in last.items()}
    return mixed | {key.removeprefix(f"{COPIED}/"): one for key, one in tensors.items() if key.startswith(f"{COPIED}/")}
