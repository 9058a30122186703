"""Objects as class and arguments: how a run remembers what it was made of, and makes it again if that is trusted."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

ALLOWED = ("sparring", "torch", "diffusers", "transformers", "peft")
PLAIN = (str, int, float, bool, type(None))


def describe(thing: object) -> dict[str, Any] | None:
    """`class_path` and `init_args` of an object; None if its arguments cannot be told.

    They are what `remember` was given, the configuration of a diffusers model, or attributes that are called like the
    arguments and hold plain values; an argument with a default may be missing. Whoever keeps a description makes the
    object again and compares.
    """
    known = vars(thing).get("_described")
    if known is not None:
        return known
    kind = type(thing)
    module = kind.__module__
    if module == "__main__":  # a program: the module of its file
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else module
    if "<locals>" in kind.__qualname__ or module in ("__main__", "builtins"):
        return None
    config = getattr(thing, "config", None)
    own = config if isinstance(config, dict) else vars(thing)
    arguments: dict[str, Any] = {}
    for parameter in list(inspect.signature(kind).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if parameter.kind == parameter.VAR_POSITIONAL:
                return None
        elif parameter.name in own and is_plain(own[parameter.name]):
            arguments[parameter.name] = own[parameter.name]
        elif parameter.default is parameter.empty:
            return None
    return {"class_path": f"{module}.{kind.__qualname__}", "init_args": arguments}


def remember(thing: object, description: dict[str, Any]) -> None:
    """Keeps, with an object, what it was made of."""
    vars(thing)["_described"] = description


def is_plain(value: Any) -> bool:
    """Whether a value is text, number, truth value, None, or lists and mappings of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return isinstance(value, PLAIN)


def make(description: dict[str, Any], allow: Sequence[str] = (), kind: type | None = None) -> Any:
    """The object of a description, with those in its arguments.

    Args:
        description: `class_path` and `init_args`.
        allow: packages that are trusted, beside sparring, torch, diffusers, transformers and peft; they may lie in the
            working folder.
        kind: the class, if it is at hand; None: it is imported.

    Raises:
        ValueError: a class of another package, one that is not there, or arguments that it refuses.
    """
    path = str(description.get("class_path"))
    root = path.partition(".")[0]
    if kind is None and root not in (*ALLOWED, *allow):
        raise ValueError(
            f"class {path} is of {root!r} and none of the packages {', '.join((*ALLOWED, *allow))}; if you trust it, "
            f"add --allow {root}"
        )
    add_working_folder(allow)
    try:
        settings = {
            name: make(value, allow) if isinstance(value, dict) and "class_path" in value else value
            for name, value in (description.get("init_args") or {}).items()
        }
        return (kind or checked(find(path), path, ("sparring", *allow)))(**settings)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"class {path} cannot be made ({type(error).__name__}: {error})") from None


def checked(found: Any, path: str, free: Sequence[str]) -> Any:
    """A class, or a class method that makes one; of other packages than `free` only networks and data sets."""
    owner = found.__self__ if inspect.ismethod(found) else found
    if not isinstance(owner, type):
        raise ValueError(f"{path} is no class")
    if path.partition(".")[0] not in free and not issubclass(owner, nn.Module | Dataset):
        raise ValueError(f"{path} is neither a network nor a data set")
    return found


def add_working_folder(allow: Sequence[str]) -> None:
    """Lets a trusted module be found in the working folder, too."""
    if allow and not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


def find(path: str) -> Any:
    """The class or function of a dotted path."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not path.startswith(error.name):
                raise
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ImportError(f"no module {parts[0]}")
