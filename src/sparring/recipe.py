"""From a recipe (YAML and flags) to the objects of a run: data, denoiser, method, trainer."""

import difflib
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

ALLOWED = ("sparring", "torch", "diffusers", "transformers", "peft")


def shipped() -> dict[str, str]:
    """Name and one-line description (its first comment) of every recipe in the package."""
    folder = resources.files("sparring") / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for file in files
    }


def read(name: str) -> dict[str, Any]:
    """The recipe of that name or file, unresolved.

    Raises:
        ValueError: no such recipe or file; not YAML; not a mapping.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"recipe file {name} does not exist")
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        names = list(shipped())
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"unknown recipe {name!r}: {hint} (`sparring recipes` lists them; a file ends in .yaml)")
        text = (resources.files("sparring") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {name} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {name} must be a mapping with the keys data, denoiser, method and trainer")
    unknown = set(recipe) - {"data", "denoiser", "method", "trainer"}
    if unknown:
        raise ValueError(f"recipe {name}: unknown key {sorted(map(str, unknown))[0]!r}; it may hold data, denoiser, method, trainer")
    return recipe


def check_classes(recipe: Any, flags: list[str], allow: list[str]) -> None:
    """Refuses any class outside the packages that a recipe may name, before anything is imported.

    Raises:
        ValueError: a class of another package.
    """
    allowed = (*ALLOWED, *allow)
    named = list(class_paths(recipe))
    for flag in flags:
        value = flag.split("=", 1)[-1]
        named += list(class_paths(yaml.safe_load(value))) if "class_path" in value and "{" in value else [value]
    for path in named:
        parts = path.split(".")
        if len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[0] not in allowed:
            raise ValueError(
                f"class {path} is of {parts[0]!r}, and a recipe may name classes of {', '.join(allowed)}; "
                f"if you trust it, add --allow {parts[0]}"
            )


def class_paths(node: Any) -> Iterator[str]:
    """Every `class_path` in a recipe, at any depth; a plain dotted string may be a short form of one."""
    if isinstance(node, dict):
        for value in node.values():
            yield from class_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from class_paths(value)
    elif isinstance(node, str):
        yield node


def parser(tunes: bool) -> Any:
    """The jsonargparse parser whose options are the constructors' arguments.

    Args:
        tunes: the denoiser comes from a trained pipeline (`denoiser.path`) and is not built from scratch.
    """
    from jsonargparse import ArgumentParser

    from sparring.data import ImageData
    from sparring.denoiser import Denoiser
    from sparring.methods import Method
    from sparring.pipeline import Pretrained
    from sparring.training import Trainer

    options = ArgumentParser(
        prog="sparring fit RECIPE", exit_on_error=False, description="Every setting of a recipe, as a flag."
    )
    options.add_argument("--config", action="config", help="the recipe")
    options.add_subclass_arguments(ImageData, "data", required=True)
    options.add_class_arguments(Pretrained if tunes else Denoiser, "denoiser")
    options.add_subclass_arguments(Method, "method", required=True)
    options.link_arguments("denoiser", "method.init_args.generator", apply_on="instantiate")
    options.add_class_arguments(Trainer, "trainer", skip={"method", "data", "out", "config"}, instantiate=False)
    return options


def build(recipe: dict[str, Any], flags: list[str], *, out: Path, init: str | None, header: dict[str, Any]) -> Any:
    """The trainer of a recipe, ready for `fit`.

    Args:
        recipe: as read.
        flags: overrides from the command line, `--trainer.steps=100` ….
        out: run folder.
        init: run or pipeline folder from which the denoiser is taken.
        header: first entries of config.yaml.

    Raises:
        ValueError: an unknown class or setting, a value of the wrong type or one that cannot work; in one line.
    """
    import torch

    from sparring.training import Trainer

    if init is not None:
        recipe = {**recipe, "denoiser": {"path": init}}
    elif "denoiser" not in recipe and not any(flag.startswith("--denoiser") for flag in flags):
        raise ValueError("this recipe tunes a trained denoiser: give it with --init RUN or --init PIPELINE")
    options = parser(tunes=init is not None)
    try:
        parsed = options.parse_args([f"--config={yaml.safe_dump(recipe)}", *flags])
    except Exception as error:  # jsonargparse raises many kinds
        raise ValueError(plain(error)) from None
    config = {**header, **yaml.safe_load(options.dump(parsed, skip_none=False))}
    config.pop("config", None)
    torch.manual_seed(parsed.trainer.seed)  # initial weights
    try:
        objects = options.instantiate(parsed)
    except TypeError as error:
        raise ValueError(plain(error)) from None
    return Trainer(objects.method, objects.data, out=out, config=config, **objects.trainer.as_dict())


def plain(error: Exception) -> str:
    """jsonargparse's message in one line, without what it says about types that were not meant."""
    text = " ".join(str(error).split())
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: -?", "", text)
    text = re.sub(r"- Expected a <class 'NoneType'>|Given value type: .*?(?=Given value:|$)|Given value: .*$", "", text)
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid -?", "", text)
    text = re.sub(r'Parser key "(.*?)": ', r"`\1`: ", text)
    text = re.sub(r"<class '(.*?)'>", r"\1", text)
    text = re.sub(r"Problem with given class_path '(.*?)':", r"\1:", text)
    return re.sub(r"Expected a dot import path string: (\S+)", r"no class \1 (give its import path)", " ".join(text.split()))
