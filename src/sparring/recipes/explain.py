"""What the settings of a recipe mean: each with its value, its type and its line of the class docstring."""

import inspect
import textwrap
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from docstring_parser import parse as parse_docstring

from sparring.recipes.recipe import of_generator
from sparring.recipes.spelling import MADE_HERE
from sparring.runs.classes import find

ROOMS = ("methods", "data", "discriminators", "backbones", "objectives", "process", "networks", "networks.adapters")
WIDTH = 120


def explain(recipe: dict[str, Any], tuned: bool, only: str = "", other: str = "") -> str:
    """The settings of the classes that a recipe names.

    Args:
        recipe: as composed, its classes checked.
        tuned: whether the denoiser is read from a folder.
        only: a place such as "method.discriminator"; "" for all.
        other: name of a class that could stand there.

    Raises:
        ValueError: no class at that place, or none of that name.
    """
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for section in ("data", of_generator(recipe), "method", "trainer"):
        node = recipe.get(section) or {}
        if "class_path" in node:
            found |= below(section, find(node["class_path"]), node.get("init_args") or {})
        elif section in ("denoiser", "trainer"):
            home, name = ("generators", "Pretrained" if tuned else "Denoiser")
            home, name = ("training", "Trainer") if section == "trainer" else (home, name)
            found |= below(section, getattr(import_module(f"sparring.{home}"), name), node)
    if other:
        found = below(only, class_named(other), {})
    elif only:
        found = {place: entry for place, entry in found.items() if f"{place}.".startswith(f"{only}.")}
    if not found:
        raise ValueError(f"`{only}` names no class in this recipe: `--settings` shows which there are")
    return "\n\n".join(text(place, kind, given) for place, (kind, given) in found.items())


def class_named(name: str) -> Any:
    """A class of the library by its name."""
    for room in ROOMS:
        try:
            return getattr(import_module(f"sparring.{room}"), name)
        except AttributeError:
            continue
    raise ValueError(f"the library has no class {name}")


def below(place: str, kind: Any, given: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A class with what is given to it, and those among its settings."""
    found = {place: (kind, given)}
    for name, parameter in taken(place, kind).items():
        value = given.get(name, parameter.default)
        if isinstance(value, dict) and "class_path" in value:
            found |= below(f"{place}.{name}", find(value["class_path"]), value.get("init_args") or {})
        elif is_dataclass(parameter.default):
            own = value if isinstance(value, dict) else {}
            found |= below(f"{place}.{name}", type(parameter.default), own)
    return found


def taken(place: str, kind: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a class that a recipe can set."""
    parameters = inspect.signature(kind).parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind not in variable and name not in MADE_HERE.get(place, ())
    }


def text(place: str, kind: Any, given: dict[str, Any]) -> str:
    """One class: its first sentence, and a flag for each setting."""
    doc = parse_docstring(inspect.getdoc(kind) or "")
    meanings = {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in doc.params}
    lines = [f"{place}: {kind.__name__}. {doc.short_description or ''}".rstrip()]
    for name, parameter in taken(place, kind).items():
        value = given.get(name, parameter.default)
        if isinstance(value, dict) and "class_path" in value:
            value = value["class_path"].rpartition(".")[2]
        elif is_dataclass(parameter.default):
            value = "..."
        shown = "(required)" if value is parameter.empty else value
        annotation = parameter.annotation
        of = "" if annotation is parameter.empty else f"   [{inspect.formatannotation(annotation)}]"
        lines.append(f"  --{place}.{name} {shown}{of.replace('sparring.', '')}")
        if meaning := meanings.get(name):
            lines += textwrap.wrap(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
