"""What `sparring sample --with NAME --with.SETTING VALUE` names: a system in `samplers/`, found by its file."""

import difflib
import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from sparring.recipes.systems import System, systems

FLAG = "--with"


def sampling_systems() -> dict[str, System]:
    """The systems that can be added to a sampler, by name."""
    return {one.recipe: one for one in systems() if one.file.startswith("samplers/")}


def groups(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each name behind `--with`, and the flags `--SETTING=VALUE` that follow it; several values become a list.

    Raises:
        ValueError: an argument that is neither, a setting before the first name, or `--with` without a name.
    """
    flags: list[tuple[str, list[str]]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name == FLAG or name.startswith(f"{FLAG}."):
            flags.append((name, [value] if equals else []))
        elif flags and not word.startswith("--") and (flags[-1][0] != FLAG or not flags[-1][1]):
            flags[-1][1].append(word)
        else:
            raise ValueError(f"unknown argument {word}: see `sparring sample --help`")
    found: list[tuple[str, list[str]]] = []
    for flag, values in flags:
        joined = values[0] if len(values) == 1 else f"[{', '.join(values)}]"
        if flag != FLAG and not found:
            raise ValueError(f"`{flag}` comes before the name of what it belongs to: give --with NAME first")
        if flag == FLAG and not values:
            raise ValueError(f"`--with` needs a name: there are {', '.join(sampling_systems())}")
        if flag == FLAG:
            found.append((values[0], []))
        else:
            found[-1][1].append(f"--{flag.removeprefix(f'{FLAG}.')}={joined}")
    return found


def class_of(name: str) -> Any:
    """The class of a sampling system.

    Raises:
        ValueError: there is none of that name.
    """
    from sparring.generators.predictor import Intervention

    known = sampling_systems()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"`--with {name}`: no such system: {hint} (`sparring systems sampling` lists them)")
    module = import_module(f"sparring.{known[name].file.removesuffix('.py').replace('/', '.')}")
    own = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    return next(kind for kind in own if issubclass(kind, Intervention))


def interventions(words: Sequence[str], allow: Sequence[str] = ()) -> list[Any]:
    """The objects that a command line names.

    Args:
        words: `--with NAME`, `--with.SETTING VALUE` …, in their order.
        allow: further packages whose networks a folder may name.

    Raises:
        ValueError: no such system or setting, or a value that it cannot take; in one line.
    """
    return [made(class_of(name), name, flags, allow) for name, flags in groups(words)]


def made(kind: Any, name: str, flags: list[str], allow: Sequence[str]) -> Any:
    """An object of a class, by flags."""
    from jsonargparse import ArgumentParser

    from sparring.recipes.recipe import one_line

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parameters = inspect.signature(kind).parameters
    parser.add_class_arguments(kind, skip={"allow"} & set(parameters), fail_untyped=False)
    try:
        for flag in flags:
            check_one(kind, *flag.removeprefix("--").split("=", 1))
        settings = parser.instantiate(parser.parse_args(flags)).as_dict()
    except Exception as error:  # jsonargparse raises many kinds
        said = one_line(error)
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        wrong = re.match(r"`(\w+)", said)
        if wrong and wrong[1] in given:
            said = f"`--with.{wrong[1]} {given[wrong[1]]}` must be {meaning(kind, wrong[1])}"
        elif lacks := re.search(r"required: (\w+)", said):
            said = f"it needs --with.{lacks[1]}, {meaning(kind, lacks[1])}"
        else:
            said = said.replace("unrecognized arguments: --", "unknown setting --with.")
            said += f"; it takes {', '.join(f'--with.{one}' for one in parameters if one != 'allow') or 'no settings'}"
        raise ValueError(f"`--with {name}`: {said}") from None
    return kind(**settings, **({"allow": allow} if "allow" in parameters else {}))


def check_one(kind: Any, setting: str, value: str) -> None:
    """Raises ValueError if several values are given for a setting that is one text, which would take them as one."""
    hint = get_type_hints(kind.__init__).get(setting)
    texts = hint is str or str in get_args(hint)
    if texts and value.startswith("[") and not any(get_origin(one) for one in get_args(hint)):
        raise ValueError(f"`{setting}`")


def meaning(kind: Any, setting: str) -> str:
    """What a setting of a class takes, by its type and its line of the docstring."""
    doc = parse_docstring(inspect.getdoc(kind) or "")
    lines = {one.arg_name: " ".join((one.description or "").split()).rstrip(".") for one in doc.params}
    words = in_words(get_type_hints(kind.__init__).get(setting))
    return f"{words}: {lines[setting]}" if setting in lines else words


def in_words(hint: Any, several: bool = False) -> str:
    """The values that a type has, as far as a command line can give them."""
    kinds = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one not in (NoneType, ...)]
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"{len(inner)} {in_words(inner[0], several=True)}"
    if origin is Sequence:
        return f"{'lists' if several else 'a list'} of {in_words(inner[0], several=True)}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(in_words(one, several) for one in inner if one in kinds or get_origin(one)))
    word = kinds.get(hint, "value")
    return word if hint is bool else f"{word}s" if several else f"a {word}"
