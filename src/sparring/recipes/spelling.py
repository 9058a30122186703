"""Misspelt settings, found by reading the files of the classes that a recipe names: nothing is imported."""

import ast
import difflib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sparring.recipes.compose import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
FIXED = {"trainer": "sparring.training.Trainer"}
MADE_HERE = {"trainer": ("method", "data", "out", "config"), "method": ("generator",)}


def check_flags(recipe: dict[str, Any], flags: list[str], tuned: bool, options: Collection[str] = ()) -> None:
    """Refuses a flag for a setting that its class does not have. What cannot be known this way passes.

    Args:
        recipe: as composed.
        flags: of the command line, `--trainer.steps=100` or `--trainer.steps 100`.
        tuned: whether the denoiser is read from a folder.
        options: further flags that there are.

    Raises:
        ValueError: the flag, and what could have been meant.
    """
    classes = FIXED | {"denoiser": f"sparring.generators.{'Pretrained' if tuned else 'Denoiser'}"}
    replaced = {named(flag)[:-1] if named(flag)[-1] == "class_path" else named(flag) for flag in words(flags)}
    for flag in words(flags):
        section, *path = named(flag)
        if section not in SECTIONS:
            known = {name: arguments(class_in(recipe, name, classes)) or {} for name in reversed(SECTIONS)}
            raise ValueError(f"unrecognized arguments: {flag}: {meant_of_all(section, known, options)}")
        node = recipe.get(section)
        node = node if isinstance(node, dict) else {}
        settings = arguments(class_in(recipe, section, classes))
        place: tuple[str, ...] = (section,)
        for part in path:
            if settings is None or place in replaced or part in ("class_path", "help") or part.endswith("+"):
                break
            if len(place) == 1:
                settings = {name: kind for name, kind in settings.items() if name not in MADE_HERE.get(section, ())}
            if part not in settings:
                raise ValueError(f"unrecognized arguments: {flag}: {meant(place, part, settings)}")
            node = node.get("init_args", node) if isinstance(node, dict) else {}
            node = node.get(part) if isinstance(node, dict) else None
            kind = node.get("class_path") if isinstance(node, dict) else settings[part]
            settings = arguments(str(kind)) if kind else None
            place = (*place, part)


def words(flags: list[str]) -> Iterator[str]:
    return (flag for flag in flags if flag.startswith("--"))


def named(flag: str) -> tuple[str, ...]:
    """The parts of a flag's name without `init_args`."""
    return tuple(part for part in flag[2:].partition("=")[0].split(".") if part != "init_args")


def meant(place: tuple[str, ...], part: str, settings: dict[str, str]) -> str:
    """The nearest setting, one of that name a step below, or all there are."""
    where = ".".join(place)
    below = [f"{name}.{part}" for name, kind in settings.items() if part in (arguments(kind) or {})]
    near = difflib.get_close_matches(part, settings, 1) or below[:1]
    return f"did you mean --{where}.{near[0]}?" if near else f"{where} takes {', '.join(settings)}"


def meant_of_all(word: str, known: dict[str, dict[str, str]], options: Collection[str]) -> str:
    """A setting that is called so in some section or a step below, an option that is spelt nearly so, or the sections.

    Args:
        word: the flag.
        known: what the class of each section takes.
        options: further flags.
    """
    called = [f"{section}.{word}" for section, settings in known.items() if word in settings]
    called += [
        f"{section}.{name}.{word}"
        for section, settings in known.items()
        for name, kind in settings.items()
        if kind and word in (arguments(kind) or {})
    ]
    near = called or difflib.get_close_matches(word, options, 1)
    return f"did you mean --{near[0]}?" if near else f"settings begin with --{', --'.join(SECTIONS)}"


def class_in(recipe: dict[str, Any], section: str, classes: dict[str, str]) -> str:
    """The class path that a section of a recipe names, or the one that it has anyway."""
    node = recipe.get(section)
    return str((node.get("class_path") if isinstance(node, dict) else None) or classes.get(section))


@cache
def arguments(class_path: str) -> dict[str, str] | None:
    """What the constructor of a class of this package takes, with the class of each that has one, or "".

    None if that cannot be read: another package, another constructor than one of its own, or one that takes anything.
    """
    package, _, name = class_path.rpartition(".")
    if not package.startswith("sparring."):
        return None
    place = ROOT.joinpath(*package.split(".")[1:])
    files = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.rglob("*.py"))
    for file in files:
        text = file.read_text(encoding="utf-8")
        if f"class {name}" not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return of_class(node, package)
    return None


def of_class(node: ast.ClassDef, package: str) -> dict[str, str] | None:
    constructor = next(
        (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None
    )
    if constructor is not None:
        if constructor.args.kwarg is not None:
            return None
        taken = [*constructor.args.args[1:], *constructor.args.kwonlyargs]
        annotated = {one.arg: one.annotation for one in taken}
    elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
        annotated = {part.target.id: part.annotation for part in fields if isinstance(part.target, ast.Name)}
    else:
        return None
    kinds = {name: kind.id if isinstance(kind, ast.Name) else "" for name, kind in annotated.items()}
    return {name: f"{package}.{kind}" if kind[:1].isupper() else "" for name, kind in kinds.items()}
