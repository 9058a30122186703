"""A network of diffusers or transformers from its folder, of which every weight is there, has a place and is finite."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data.hub_access import without_waiting

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<old>\w+))?"
    r"\.(?:safetensors|bin)"
)


def load_network(kind: Any, path: str | Path, what: str, dtype: torch.dtype, *, ignored: str = "position_ids") -> Any:
    """The network of a folder, or of a name on the hub, on the CPU.

    A folder that holds its weights in one variant only ("fp16") is read in that variant.

    Args:
        kind: a class of diffusers or transformers with `from_pretrained`.
        path: folder with a configuration and weights, or a name on the hub.
        what: what an error calls it, such as "`sd15/unet`".
        dtype: its precision.
        ignored: keys of the file with this in their name may have no place in the network.

    Raises:
        ValueError: no configuration or weights there, or weights that do not fit, lack keys, have others, or are not
            finite; in one line that names the keys.
    """
    folder = Path(path)
    try:
        options = {"variant": variant(folder)} if folder.is_dir() else {}
        with without_waiting(path):
            network, info = kind.from_pretrained(str(path), output_loading_info=True, **options)
    except Exception as error:  # whatever a damaged folder makes a library raise
        raise ValueError(f"{what} cannot be read as {kind.__name__} ({first_line(error)})") from None
    unexpected = {key for key in info["unexpected_keys"] if ignored not in key}
    check_keys(set(info["missing_keys"]), unexpected, what, kind.__name__)
    check_finite(network, what)
    return network if network.dtype == dtype else network.to(dtype)


def put_weights(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Puts the tensors of a file into a network.

    Raises:
        ValueError: they lack keys, have others or other shapes, or are not finite; in one line that names the keys.
    """
    kind = type(network).__name__
    try:
        wrong = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{what} does not fit {kind}: {str(error).splitlines()[-1].strip()}") from None
    check_keys(wrong.missing_keys, wrong.unexpected_keys, what, kind)
    check_finite(network, what)


def variant(folder: Path) -> str | None:
    """None if weights lie in a folder without a variant in their names, else the variant ("fp16" of several).

    Raises:
        ValueError: there are no weights.
    """
    found = [match for file in folder.iterdir() if (match := WEIGHTS.fullmatch(file.name))]
    if not found:
        raise ValueError("it holds no weights: download them too")
    variants = {match["variant"] or match["old"] for match in found}
    return None if None in variants else "fp16" if "fp16" in variants else min(variants)


def check_keys(missing: Collection[str], unexpected: Collection[str], what: str, kind: str) -> None:
    """Raises ValueError, with the keys and the usual reason, where a file's keys are not those of the network."""
    if not missing and not unexpected:
        return
    lacks = f"lacks {some(missing)}" if missing else ""
    holds = f"holds {some(unexpected)}, which {kind} does not have" if unexpected else ""
    starts = {key.split(".")[0] for key in unexpected}
    if starts and starts <= {"_orig_mod", "module"}:
        reason = f": save the network without its wrapper, whose name `{min(starts)}.` stands before every key"
    elif any(".base_layer." in key or "lora_" in key for key in unexpected):
        reason = ": fuse or unload its adapters before it is saved"
    else:
        reason = ""
    raise ValueError(f"{what} {' and '.join(filter(None, (lacks, holds)))}{reason}")


def some(keys: Collection[str]) -> str:
    """The first key in order, and how many more there are."""
    return f"`{min(keys)}`" + (f" and {len(keys) - 1} more weights" if len(keys) > 1 else "")


def check_finite(network: nn.Module, what: str) -> None:
    """Raises ValueError if a weight of a network is not finite."""
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{what}: `{name}` is not finite (NaN or infinity): the file is of a run that diverged")


def first_line(error: Exception) -> str:
    """The first line of an error's message without a library's own advice, or its type if it has none."""
    text = str(error).partition(" If you want to instead")[0]
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
