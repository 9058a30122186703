"""Generators whose network no pipeline holds, as a folder: how to make the network again, and its weights."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sparring.networks.loading import put_weights
from sparring.process import Process, StudentT
from sparring.runs.checkpoint import save_tensors, sync
from sparring.runs.classes import describe, make, remember
from sparring.runs.folder import reason

CONFIG, WEIGHTS, PRIOR = "generator.json", "generator.safetensors", "prior.safetensors"


def write_own(folder: Path, net: nn.Module, prior: nn.Module | None = None, **settings: Any) -> bool:
    """Writes generator.json and generator.safetensors, and prior.safetensors with a prior, each atomically.

    Args:
        folder: new, or one that this has written.
        net: the network.
        prior: of its latents, if it is not the standard normal law.
        settings: what else the generator is made of.

    Returns:
        False, and nothing is written, if the network or the prior cannot be made again from its class and arguments.
    """
    parts = {"net": net} if prior is None else {"net": net, "prior": prior}
    if not (folder / CONFIG).is_file():
        described = {name: describe(part) for name, part in parts.items()}
        if any(one is None or not is_equal(parts[name], one) for name, one in described.items()):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(described | settings, indent=1) + "\n"
        replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    for part, file in zip(parts.values(), (WEIGHTS, PRIOR), strict=False):
        replace(folder / file, partial(write_weights, part))
    return True


def kernel_settings(process: Process) -> dict[str, Any]:
    """Of noise with another law than the normal one, which no scheduler tells: its degrees of freedom."""
    return {"degrees": process.kernel.dimension} if isinstance(process.kernel, StudentT) else {}


def write_weights(part: nn.Module, path: Path) -> None:
    save_tensors(path, part.state_dict())


def is_equal(net: nn.Module, description: dict[str, Any]) -> bool:
    """Whether a network made by a description takes the weights and looks alike."""
    with torch.random.fork_rng():
        try:
            twin = make(description, kind=type(net))
            twin.load_state_dict(net.state_dict())
        except (ValueError, RuntimeError, AttributeError):
            return False
    return repr(twin) == repr(net)


def replace(file: Path, write: Callable[[Path], Any]) -> None:
    draft = file.with_name(f".{file.name}")
    write(draft)
    sync(draft)
    os.replace(draft, file)


def read_own(folder: Path, allow: Sequence[str] = ()) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a folder, and the settings that were written with it, the `prior` among them if there is one.

    Args:
        folder: what `write_own` wrote.
        allow: packages whose classes it may name, beside those of the library.

    Raises:
        ValueError: damaged; a network of another package; a class that is not there or has changed.
    """
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        described = {name: settings.pop(name) for name in ("net", "prior") if name in {"net", *settings}}
        for description in described.values():
            description["class_path"], dict(description["init_args"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({type(error).__name__}: {error})") from None
    try:
        made = {}
        for (name, description), file in zip(described.items(), (WEIGHTS, PRIOR), strict=False):
            made[name] = make(description, allow)
            put_weights(made[name], load_file(folder / file), f"`{file}`")
            remember(made[name], description)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} could not be opened ({' '.join(reason(error).split())[:200]})") from None
    return made.pop("net"), settings | made
