"""From a recipe (YAML and flags) to the objects of a run: data, denoiser, method, trainer."""

import difflib
import os
import re
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
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
        raise ValueError(
            f"recipe {name}: unknown key {sorted(map(str, unknown))[0]!r}; it may hold data, denoiser, method, trainer"
        )
    return recipe


def check_classes(recipe: Any, allow: list[str]) -> None:
    """Refuses any class outside the packages that a recipe may name, before anything is imported.

    Args:
        recipe: as read. A class stands under `class_path`, or as a plain dotted string where one is expected.
        allow: further packages that the user trusts.

    Raises:
        ValueError: a class of another package.
    """
    allowed = (*ALLOWED, *allow)
    for key, value in strings(recipe):
        root, _, rest = value.partition(".")
        if not rest or root in allowed or not all(part.isidentifier() for part in value.split(".")):
            continue
        if key == "class_path" or find_spec(root) is not None:
            raise ValueError(
                f"class {value} is of {root!r}, and a recipe may name classes of {', '.join(allowed)} only; "
                f"if you trust it, add --allow {root}"
            )


def strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a recipe, at any depth, with the key it stands under."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from strings(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, key)
    elif isinstance(node, str):
        yield key, node


def tunes(recipe: dict[str, Any], init: str | None) -> bool:
    """Whether the denoiser comes from a trained pipeline: one is given, or the recipe builds no network."""
    return init is not None or "net" not in (recipe.get("denoiser") or {})


def parser(tunes: bool) -> Any:
    """The jsonargparse parser whose options are the constructors' arguments.

    Args:
        tunes: the denoiser comes from a trained pipeline (`denoiser.path`) and is not built from scratch.
    """
    from jsonargparse import ArgumentParser

    from sparring.data import ImageData
    from sparring.denoiser import Denoiser
    from sparring.methods import Method
    from sparring.pretrained import Pretrained
    from sparring.training import Trainer

    options = ArgumentParser(
        prog="sparring fit RECIPE", exit_on_error=False, description="Every setting of a recipe, as a flag."
    )
    options.add_argument("--config", action="config", help="the recipe")
    options.add_subclass_arguments(ImageData, "data", required=True)
    options.add_class_arguments(
        Pretrained if tunes else Denoiser, "denoiser", skip=set() if tunes else {"space", "text"}
    )
    options.add_subclass_arguments(Method, "method", required=True)
    options.link_arguments("denoiser", "method.init_args.generator", apply_on="instantiate")
    options.add_class_arguments(Trainer, "trainer", skip={"method", "data", "out", "config"}, instantiate=False)
    return options


def parse(recipe: dict[str, Any], flags: list[str], tunes: bool) -> tuple[Any, Any]:
    """Parser and namespace of a recipe with the flags laid over it and every default filled in."""
    options = parser(tunes)
    try:
        return options, options.parse_args([f"--config={yaml.safe_dump(recipe)}", *flags])
    except Exception as error:  # jsonargparse raises many kinds
        raise ValueError(plain(error)) from None


def made(options: Any, parsed: Any) -> Any:
    """The objects of a namespace; what their constructors refuse, in their own words alone."""
    try:
        return options.instantiate(parsed)
    except (TypeError, ValueError) as error:
        raise ValueError(plain(error)) from None


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
        recipe = {**recipe, "denoiser": pretrained_section(recipe, init)}
    elif tunes(recipe, init) and not any(flag.startswith("--denoiser.net") for flag in flags):
        raise ValueError("this recipe tunes a trained denoiser: give it with --init RUN or --init PIPELINE")
    options, parsed = parse(recipe, flags, tunes=init is not None)
    config = {**header, **yaml.safe_load(options.dump(parsed, skip_none=False))}
    config.pop("config", None)
    torch.manual_seed(parsed.trainer.seed)  # initial weights
    objects = made(options, parsed)
    return Trainer(objects.method, objects.data, out=out, config=config, **objects.trainer.as_dict())


def rebuild(run: Path, flags: list[str]) -> Any:
    """The trainer of an existing run, from its config.yaml, to go on with it.

    Args:
        run: run folder.
        flags: settings that may change on the way, such as `--trainer.steps`.
    """
    import torch

    from sparring.training import RunFolder, Trainer

    config = RunFolder(run).read_config()
    if not isinstance(config, dict) or "trainer" not in config or "recipe" not in config:
        raise ValueError(f"{run} was not started by `sparring fit`: resume it from the program that made it")
    recipe = {name: config[name] for name in ("data", "denoiser", "method", "trainer")}
    check_classes(recipe, config.get("allow") or [])
    tuned = config.get("init") is not None
    if tuned and not recipe["denoiser"].get("tuning"):
        recipe["denoiser"]["path"] = str(run)
    options, parsed = parse(recipe, flags, tuned)
    if tuned and not Path(parsed.denoiser.path).exists():
        raise ValueError(
            f"{run} trains a part of the network in {parsed.denoiser.path}, which is not there: put it back, or give "
            "its folder with --denoiser.path"
        )
    torch.manual_seed(parsed.trainer.seed)
    objects = made(options, parsed)
    return Trainer(objects.method, objects.data, out=run, config=config, **objects.trainer.as_dict())


def pretrained_section(recipe: dict[str, Any], init: str) -> dict[str, Any]:
    """The recipe's `denoiser` when it is read from a folder: its settings, without the network it would build."""
    settings = recipe.get("denoiser") or {}
    kept = {name: value for name, value in settings.items() if name not in ("net", "process", "prediction")}
    return {**kept, "path": os.path.abspath(init) if os.path.exists(init) else init}


def data_section(word: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The `data` for a word such as `digits`, a folder or a parquet file; a recipe's settings for that class stay."""
    from sparring.data import named

    kind, settings = named(word)
    class_path = f"sparring.data.{kind.__name__}"
    own = recipe.get("data") or {}
    kept = own.get("init_args", {}) if isinstance(own, dict) and own.get("class_path") == class_path else {}
    return {"class_path": class_path, "init_args": {**kept, **settings}}


def plain(error: Exception) -> str:
    """jsonargparse's message in one line, without what it says about types that were not meant."""
    text = " ".join(str(error).split())
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: -?", "", text)
    text = re.sub(r"- Expected a <class 'NoneType'>|Given value type: .*?(?=Given value:|$)|Given value: .*$", "", text)
    text = re.sub(r" ?\. Got value: Namespace\(.*$", "", text)
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid -?", "", text)
    text = re.sub(r'Parser key "(.*?)": ', r"`\1`: ", text)
    text = re.sub(r"<class '(.*?)'>", r"\1", text)
    text = re.sub(r"Problem with given class_path '(.*?)':", r"\1:", text)
    return re.sub(
        r"Expected a dot import path string: (\S+)", r"no class \1 (give its import path)", " ".join(text.split())
    )
