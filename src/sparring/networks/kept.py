"""What frozen encoders make of images and captions, kept in files and found again by content."""

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class Kept:
    """Rows of tensors in a folder, a file each, under a digest of all that decides them.

    That is the content of what a row was made of, the encoder, the device, the versions of the libraries, and with how
    many others it was made, since the last bits of a kernel's result may depend on that. So what is read is what would
    be made, whatever happened to the image before, and a row that is not there is made.

    Args:
        folder: may be shared by runs, also at the same time.
        of: what the encoder is: texts, and modules with their weights.
    """

    def __init__(self, folder: str | Path, *of: str | nn.Module):
        self.folder = Path(folder).expanduser()
        digest = hashlib.blake2b(digest_size=16)
        for part in (*of, *(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))):
            if isinstance(part, str):
                digest.update(part.encode() + b"\0")
                continue
            for name, tensor in part.state_dict().items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                digest.update(content(tensor))
        self.encoder = digest.digest()
        self.read = self.made = 0

    def __call__(
        self,
        contents: Sequence[bytes],
        make: Callable[[], dict[str, Tensor]],
        device: torch.device,
        filled: str | None = None,
    ) -> dict[str, Tensor]:
        """Tensors [B, ...] by name: read if all rows are there, else made, and the missing ones written.

        Args:
            contents: of the B rows.
            make: makes all rows.
            device: where they are made, and where they go.
            filled: name of the mask [B, L] of tensors [B, L, ...] whose rows were filled up with zeros to the longest;
                they are kept without, and filled up again beside others. None: they are not.

        Raises:
            ValueError: a file is damaged, or cannot be written.
        """
        with_others = f"{len(contents)} on {device.type}".encode()
        names = [
            hashlib.blake2b(self.encoder + with_others + b"\0" + one, digest_size=16).hexdigest() for one in contents
        ]
        files = [self.folder / name[:2] / f"{name}.safetensors" for name in names]
        if all(file.is_file() for file in files):
            self.read += len(files)
            return {name: tensor.to(device) for name, tensor in joined([self._load(file) for file in files]).items()}
        made = make()
        self.made += len(files)
        for place, file in enumerate(files):
            if not file.is_file():
                length = None if filled is None else int(made[filled][place].sum())
                self._save(file, in_memory_order({name: tensor[place][:length] for name, tensor in made.items()}))
        return made

    def _load(self, file: Path) -> dict[str, Tensor]:
        try:
            return load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"`cache={self.folder}`: {file} cannot be read ({error}): delete it") from None

    def _save(self, file: Path, row: dict[str, Tensor]) -> None:
        draft = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(save(row))
            os.replace(draft, file)
        except OSError as error:
            raise ValueError(
                f"`cache={self.folder}` cannot be written ({error.strerror}): make room, give another folder, or go "
                "without"
            ) from None


def in_memory_order(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they lie in memory, with the order of their dimensions behind their names.

    Kernels are chosen by it, so that the same numbers in another order would give other last bits later.
    """
    found = {}
    for name, tensor in row.items():
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
        found[" ".join([name, *map(str, order)])] = tensor.permute(order).cpu().contiguous()
    return found


def joined(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of `in_memory_order` as one batch, in which the shorter ones are filled up with zeros."""
    found = {}
    for key in rows[0]:
        name, *order = key.split(" ")
        batch = pad_sequence([row[key] for row in rows], batch_first=True)
        found[name] = batch.permute(0, *(1 + order.index(str(dim)) for dim in range(batch.ndim - 1)))
    return found


def content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
