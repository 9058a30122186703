"""Results on disk that are costly to compute again: tensors under a fingerprint of all they depend on."""

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparring.backbones import Backbone
from sparring.metrics.extract import ImageBatches
from sparring.networks.kept import content

_FORMAT = 1  # raise it when a statistic changes its meaning: what older versions stored is then never found


def fingerprint(*parts: Tensor | ImageBatches | str | int | float | None) -> str:
    """sha256 over tensors (shape, type, bytes), which may come in batches, and plain values, in order."""
    digest = hashlib.sha256(f"sparring metrics {_FORMAT}".encode())
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"\ntensor {part.dtype} {tuple(part.shape)}\n".encode())
            digest.update(content(part))
        elif isinstance(part, ImageBatches):
            digest.update(f"\ntensor {torch.float32} {tuple(part.shape)}\n".encode())
            for batch in part:
                digest.update(content(batch))
        else:
            digest.update(f"\n{type(part).__name__} {part!r}\n".encode())
    return digest.hexdigest()


def of_backbone(backbone: Backbone) -> str:
    """sha256 over kind, name, resize, and all weights and buffers."""
    state = [part for key, value in backbone.state_dict().items() for part in (key, value)]
    return fingerprint(type(backbone).__name__, backbone.name, backbone.resize, *state)


def load(folder: str | Path, kind: str, key: str) -> dict[str, Tensor] | None:
    """What was stored under this fingerprint, or None."""
    path = _path(folder, kind, key)
    try:
        if not path.exists():
            return None
        with safe_open(str(path), "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            description = json.loads((file.metadata() or {}).get("description", "{}"))
    except PermissionError:
        return None
    except SafetensorError as error:
        raise ValueError(f"`cache={folder}`: {path.name} cannot be read ({error}); delete the file") from error
    return stored if description.get("fingerprint") == key else None


def save(folder: str | Path, kind: str, key: str, tensors: dict[str, Tensor], **description: str | int) -> None:
    """Stores tensors under a fingerprint, with a description as JSON in the file's header; atomic.

    If the folder cannot be written, a warning says so and names the variable that gives another.
    """
    path = _path(folder, kind, key)
    metadata = {"description": json.dumps({"fingerprint": key, **description})}
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        text = f"{folder} cannot be written ({why}): going on without a cache; $SPARRING_CACHE names another"
        warnings.warn(text, stacklevel=2)
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _path(folder: str | Path, kind: str, key: str) -> Path:
    return Path(folder) / f"{kind}-{key[:20]}.safetensors"
