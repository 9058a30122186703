"""The average of a run as it was at an earlier checkpoint, or of another width, as a folder of its own."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Literal

from torch import Tensor

from sparring.recipes import recipe
from sparring.runs import RunFolder
from sparring.runs.checkpoint import steps_in
from sparring.training.power_ema import reconstruct
from sparring.training.state import copy_into, load_frozen


def write_average(
    run: Path,
    out: Path,
    *,
    std: float | None = None,
    step: int | Literal["best"] | None = None,
    allow: Sequence[str] = (),
) -> None:
    """Writes an average of a run as a folder that can be sampled and measured; nothing is trained.

    Args:
        run: folder of the run.
        out: the new folder.
        std: width of the average, as a share of the run, made of its snapshots; or
        step: checkpoint whose average is written, or "best" for that of the lowest score.
        allow: further packages whose classes the run may name.

    Raises:
        ValueError: `out` is there; no such checkpoint, none with a score, or no snapshots; a network that cannot be
            made again.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out={out}` is there already: give another folder")
    tensors = reconstruct(run / "ema", std) if std is not None else average_at(RunFolder(run), step)
    trainer = recipe.rebuild(run, [], allow)
    load_frozen(trainer.method, trainer.folder.load_frozen())
    own = trainer.ema.module.state_dict()
    copy_into({name: tensor for name, tensor in own.items() if name in tensors}, tensors)
    if not trainer.ema.module.save(out, trainer.method.sampler):
        raise ValueError(f"the network of {run} cannot be made again from its class and arguments")
    RunFolder(out).save_lora(trainer.ema.module.adapters())


def average_at(run: RunFolder, step: int | Literal["best"] | None) -> dict[str, Tensor]:
    """What a checkpoint holds of the average; None: the newest.

    Raises:
        ValueError: there is no such checkpoint.
    """
    checkpoint = run.load_checkpoint(best_step(run) if step == "best" else step)
    if checkpoint is None:
        raise ValueError(f"{run.path} has no checkpoint yet")
    return checkpoint[0]["ema"]


def best_step(run: RunFolder) -> int:
    """The checkpoint with the lowest score.

    Raises:
        ValueError: none has one.
    """
    scores = {step: run.score(step) for step in steps_in(run.checkpoints)}
    if not scores or min(scores.values()) == inf:
        raise ValueError(f"`step=best`: no checkpoint of {run.path} has a score: train with --trainer.keep_best true")
    return min(scores, key=scores.__getitem__)
