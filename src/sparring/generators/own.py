"""Generators whose network no pipeline holds, as a folder: how to make the network again, and its weights."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sparring.networks.loading import put_weights
from sparring.runs.checkpoint import save_tensors, sync
from sparring.runs.classes import describe, make, remember
from sparring.runs.folder import reason

CONFIG, WEIGHTS = "generator.json", "generator.safetensors"


def write_own(folder: Path, net: nn.Module, **settings: Any) -> bool:
    """Writes generator.json and generator.safetensors, each atomically.

    Args:
        folder: new, or one that this has written.
        net: the network.
        settings: what else the generator is made of.

    Returns:
        False, and nothing is written, if the network cannot be made again from its class and arguments.
    """
    if not (folder / CONFIG).is_file():
        description = describe(net)
        if description is None or not is_equal(net, description):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"net": description, **settings}, indent=1) + "\n"
        replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    replace(folder / WEIGHTS, lambda path: save_tensors(path, net.state_dict()))
    return True


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
    """The network of a folder, and the settings that were written with it.

    Args:
        folder: what `write_own` wrote.
        allow: packages whose classes it may name, beside those of the library.

    Raises:
        ValueError: damaged; a network of another package; a class that is not there or has changed.
    """
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        description = settings.pop("net")
        description["class_path"], dict(description["init_args"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({type(error).__name__}: {error})") from None
    try:
        net = make(description, allow)
        put_weights(net, load_file(folder / WEIGHTS), f"`{WEIGHTS}`")
        remember(net, description)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} could not be opened ({' '.join(reason(error).split())[:200]})") from None
    return net, settings
