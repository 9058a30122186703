"""A checkpoint folder: safetensors by role and a state file, written whole or not at all."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STATE = "state.json"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes named tensors as safetensors, on the CPU and without shared memory."""
    save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, path)
    let_read(path)


def let_read(file: Path) -> None:
    """Gives a file the rights of reading and writing that its folder has, which safetensors takes away."""
    file.chmod(file.parent.stat().st_mode & 0o666)


def write_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Writes `folder` by way of a hidden neighbour that is renamed when it is complete and on the disk.

    Args:
        folder: where the checkpoint is to be; an older one of the same name is replaced.
        tensors: file stem ("generator", "ema" …) to named tensors; empty groups are left out.
        state: plain values for the state file; SHA-256 of the tensor files are added to it.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    files = {}
    for stem, group in tensors.items():
        if group:
            path = draft / f"{stem}.safetensors"
            save_tensors(path, group)
            sync(path)
            files[path.name] = digest(path)
    state = {**state, "files": files}
    (draft / STATE).write_text(json.dumps({**state, "digest": digest_of_state(state)}, indent=1))
    sync(draft / STATE)
    sync(draft)
    remove_checkpoint(folder)
    draft.rename(folder)
    sync(folder.parent)


def remove_checkpoint(folder: Path) -> None:
    """Removes a checkpoint; one that is half removed when the process dies is no checkpoint any more."""
    if folder.exists():
        gone = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_remains(checkpoints: Path) -> None:
    """Removes what a killed process left half written or half removed."""
    for remains in [*checkpoints.glob(".*.draft"), *checkpoints.glob(".*.removed")]:
        shutil.rmtree(remains, ignore_errors=True)


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads what `write_checkpoint` wrote, after checking every file against its digest.

    Raises:
        ValueError: a file is missing or is not what was written.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        if state.pop("digest") != digest_of_state(state):
            raise ValueError(f"{STATE} is not what was written")
        tensors = {}
        for name, expected in state["files"].items():
            if digest(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
            tensors[Path(name).stem] = load_file(folder / name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise ValueError(f"checkpoint {folder} is damaged ({reason})") from None
    return tensors, state


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run's checkpoint folder, in order."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit() and (p / STATE).is_file())


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_state(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
