"""From a recipe (a mapping, and flags) to the objects of a run: data, denoiser, method, trainer."""

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from glob import glob
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from sparring.recipes.compose import BESIDE, NEEDS_IMAGES, NEEDS_START, SECTIONS, check_start, laid_over, read, shipped
from sparring.runs.classes import ALLOWED, add_working_folder, remember

OF_IMAGES = ("Edited", "LowResolution", "PairedColumns", "UnpairedColumns", "UnpairedData", "UnpairedEdits")
WITH_SOURCES = [f"sparring.data.{name}" for name in OF_IMAGES]


def check_classes(recipe: dict[str, Any], allow: Sequence[str]) -> None:
    """Refuses any class outside the packages that a recipe may name, before anything is imported.

    A class stands under `class_path`, or as a plain string where one is expected. There, the name of a file and YAML
    inside a string would be read as settings too, so both are refused.

    Args:
        recipe: as read.
        allow: further packages that the user trusts.

    Raises:
        ValueError: a class of another package, or settings from a further file or inside a string.
    """
    allowed = (*ALLOWED, *allow)
    add_working_folder(allow)
    foreign = []
    for path, value in strings(recipe):
        named = path[-1:] == ("class_path",)
        root, _, rest = value.partition(".")
        dotted = rest and all(part.isidentifier() for part in value.split("."))
        if dotted and root not in allowed and (named or (importable(root) and not takes_text(recipe, path))):
            foreign.append(value)
        if not named and is_settings(value) and not takes_text(recipe, path):
            where = ".".join(map(str, path))
            raise ValueError(
                f"`{where}={value[:80]}` would be read as a file or a text with further settings: write them into the "
                "recipe itself"
            )
    if foreign:
        roots = list(dict.fromkeys(value.partition(".")[0] for value in foreign))
        raise ValueError(
            f"class {foreign[0]} is of {roots[0]!r}, and a recipe may name classes of {', '.join(allowed)} only; "
            f"if you trust it, add {' '.join(f'--allow {root}' for root in roots)}"
        )


def strings(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every string in a recipe, at any depth, with the keys and list indices that lead to it."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from strings(value, (*path, key))
    elif isinstance(node, str):
        yield path, node


def importable(root: str) -> bool:
    try:
        return find_spec(root) is not None
    except ValueError:  # a module without a spec, such as __main__
        return True


def is_settings(text: str) -> bool:
    """Whether jsonargparse would read the string as a file or as YAML where it expects a class."""
    file = os.path.expanduser(text)
    if text == "-" or text.startswith("file:") or (os.path.exists(file) and not os.path.isdir(file)):
        return True
    if text.endswith((".yaml", ".yml", ".json")):
        return True
    try:
        return isinstance(yaml.safe_load(text), dict | list)
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        return False


def takes_text(recipe: dict[str, Any], path: tuple[Any, ...]) -> bool:
    """Whether no class can stand at a place: what is called `path`, and those settings of the library's data sets whose
    type says so.
    """
    if path[-1] == "path":
        return True
    data = recipe.get("data")
    name = str(data.get("class_path")) if isinstance(data, dict) else ""
    if path[:2] != ("data", "init_args") or not (name.startswith("sparring.data.") or "." not in name):
        return False
    import sparring.data

    kind = vars(sparring.data).get(name.rpartition(".")[2])
    hints = get_type_hints(kind.__init__) if isinstance(kind, type) else {}  # type: ignore[misc]
    return path[2] in hints and is_plain(hints[path[2]])


def is_plain(hint: Any) -> bool:
    """Whether values of a type are texts, numbers and collections of them, and never objects of a class."""
    if get_origin(hint) is Literal:
        return True
    inner = get_args(hint)
    return all(map(is_plain, inner)) if inner else hint in (str, int, float, bool, NoneType)


def of_generator(recipe: dict[str, Any]) -> str:
    """The section that makes what is trained: "denoiser", or "generator" for any other kind."""
    return "generator" if "generator" in recipe else "denoiser"


def parser(tuned: bool, section: str = "denoiser") -> Any:
    """The jsonargparse parser whose options are the constructors' arguments.

    Args:
        tuned: the denoiser comes from a trained pipeline (`denoiser.path`) and is not built from scratch.
        section: what `of_generator` says.
    """
    from jsonargparse import ArgumentParser

    from sparring.data import ImageData
    from sparring.generators import Denoiser, Generator, Pretrained
    from sparring.methods.method import Method
    from sparring.training import Trainer

    options = ArgumentParser(
        prog="sparring fit RECIPE",
        exit_on_error=False,
        allow_abbrev=False,
        description="Every setting of a recipe, as a flag.",
    )
    options.add_argument("--config", action="config", help="the recipe")
    options.add_subclass_arguments(ImageData, "data", required=True, fail_untyped=False)
    if section == "generator":
        options.add_subclass_arguments(Generator, section, required=True, fail_untyped=False)
    else:
        skip = set() if tuned else {"space", "text"}
        options.add_class_arguments(Pretrained if tuned else Denoiser, section, skip=skip, fail_untyped=False)
    options.add_subclass_arguments(Method, "method", required=True, fail_untyped=False)
    options.link_arguments(section, "method.init_args.generator", apply_on="instantiate")
    options.add_class_arguments(Trainer, "trainer", skip={"method", "data", "out", "config"}, instantiate=False)
    return options


def parse(recipe: dict[str, Any], flags: list[str], tuned: bool) -> tuple[Any, Any]:
    """Parser and namespace of a recipe with the flags laid over it and every default filled in."""
    options = parser(tuned, of_generator(recipe))
    sections = {name: deepcopy(recipe[name]) for name in SECTIONS if recipe.get(name) is not None}
    flags = without_nulls(sections, flags)
    try:
        return options, options.parse_args([f"--config={yaml.safe_dump(sections)}", *flags])
    except Exception as error:  # jsonargparse raises many kinds
        text = one_line(error)
        if text.startswith("`data`") and "required: path" in text:
            raise ValueError(NEEDS_IMAGES) from None
        if "missing" in recipe and "required" in text:
            raise ValueError(f"{text}: it would be {recipe['missing']}") from None
        raise ValueError(text + suggestion(text, [action.dest for action in options._actions])) from None


def without_nulls(sections: dict[str, Any], flags: Sequence[str]) -> list[str]:
    """The flags but those that set an argument of a class within a class to null, which are written into the sections.

    As a flag jsonargparse would hand such a null on as a word.
    """
    left, words = [], list(flags)
    while words:
        flag = words.pop(0)
        name, equals, value = flag.partition("=")
        value = value if equals or not words else words[0]
        if value != "null" or not set_to_null(sections, name.removeprefix("--")):
            left.append(flag)
        elif not equals:
            words.pop(0)
    return left


def set_to_null(sections: dict[str, Any], name: str) -> bool:
    """Sets what a dotted name stands for to null, if it belongs to a class within a class; whether it does."""
    *parents, last = [part for part in name.split(".") if part != "init_args"]
    place: Any = sections
    classes = 0
    for part in parents:
        place = place.get(part)
        if not isinstance(place, dict):
            return False
        if "class_path" in place:
            place["init_args"] = place.get("init_args") or {}  # a file may have it empty
            place, classes = place["init_args"], classes + 1
    if classes < 2:
        return False
    place[last] = None
    return True


def suggestion(text: str, flags: list[str]) -> str:
    """What an unknown setting could be: the nearest one, or all that the class takes.

    Args:
        text: jsonargparse's message.
        flags: all settings with a flag of their own.
    """
    if found := re.search(r"([\w.]+)\.(\w+): Option '(\w+)' is not accepted", text):
        module, kind, name = found.groups()
        known = list(signature(getattr(sys.modules[module], kind)).parameters)
        rest = f": {kind} takes {', '.join(known)}"
    elif found := re.search(r"unrecognized arguments: --([\w.]+)", text):
        name, known, rest = found[1], flags, ": `sparring fit RECIPE --settings` lists what there is"
    else:
        return ""
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else rest


def instantiate(options: Any, parsed: Any) -> Any:
    """Instantiates the parsed configuration. A constructor's error is raised again without jsonargparse's wrapping."""
    try:
        return options.instantiate(parsed)
    except (TypeError, ValueError) as error:
        raise ValueError(one_line(error)) from None


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
    if recipe.get("start") == BESIDE:
        header = header | {"init": None}  # the denoiser is a setting of the method
    options, parsed = resolve(recipe, flags, init, header.get("allow", []))
    return trainer_of(options, parsed, out, header | resolved(options, parsed))


def resolve(recipe: dict[str, Any], flags: list[str], init: str | None, allow: Sequence[str] = ()) -> tuple[Any, Any]:
    """Parser and namespace of the run that `build` makes.

    Raises:
        ValueError: an unknown class or setting, or a value of the wrong type; in one line.
    """
    check_start(recipe, flags, init)
    if recipe.get("start") == BESIDE and init is not None:
        folder = os.path.abspath(init) if os.path.exists(init) else init
        recipe, init = laid_over(recipe, {"method": {"init_args": {"denoiser": folder}}}), None
    section, net = of_generator(recipe), {"class_path", "net"} & set(recipe.get(of_generator(recipe)) or {})
    if init is not None:
        recipe = {**recipe, section: section_of(recipe, init, allow)}
    elif not (net or any(flag.startswith(("--denoiser.net", "--generator")) for flag in flags)):
        if recipe.get("start") == BESIDE and section == "denoiser":
            raise ValueError(
                "this method trains a network of its own beside the denoiser, and this setting has none: take another "
                "setting, or name it with --denoiser.net"
            )
        absent = recipe.get("missing", "named with --generator")
        raise ValueError(NEEDS_START if section == "denoiser" else f"no generator: it would be {absent}")
    options, parsed = parse(recipe, flags, tuned=init is not None)
    folder = parsed.method.init_args.get("denoiser") if recipe.get("start") == BESIDE else parsed.get("denoiser.path")
    if folder is not None and recipe.get("family") is not None:
        check_family(recipe["family"], folder)
    return options, parsed


def check_family(family: str, folder: str) -> None:
    """Refuses a folder, if it is there, whose pipeline is of another family than the setting is for."""
    from sparring.generators.families import families
    from sparring.generators.loading import class_in

    of = {name: kind.__module__.rpartition(".")[2] for name, kind in families().items()}
    if family not in of.values():
        raise ValueError(f"`family: {family}` of the setting is unknown; there are {', '.join(sorted({*of.values()}))}")
    if not os.path.exists(folder) or of.get(found := class_in(folder)) == family:
        return
    fit = [name for name in shipped("settings") if found in of and read(name, "settings").get("family") == of[found]]
    wanted = " or ".join(name for name in of if of[name] == family)
    raise ValueError(
        f"{folder} is a {found}, and this setting is for a {wanted}: "
        + (f"take `--on {fit[0]}`, or a setting like it" if fit else "take a setting for what it holds")
    )


def rebuild(run: Path, flags: list[str], allow: Sequence[str] = ()) -> Any:
    """The trainer of an existing run, from its config.yaml, to go on with it.

    Args:
        run: run folder.
        flags: settings that may change on the way, such as `--trainer.steps`; going on records them in config.yaml.
        allow: further packages that the user trusts; those that config.yaml names as trusted do not count, since a run
            may come from somebody else.
    """
    config = read_config(run)
    recipe = {name: config[name] for name in SECTIONS if name in config}
    check_classes(recipe, allow)
    section, tuned = of_generator(recipe), config.get("init") is not None
    whole = tuned and not recipe[section].get("tuning")  # the run's own pipeline/ has all of the network
    if whole:
        recipe[section] = section_of(recipe, str(run), allow)
    elif tuned:
        recipe[section] = section_of(recipe, recipe[section]["path"], allow)
    options, parsed = parse(recipe, flags, tuned)
    if tuned and not whole and not Path(parsed.denoiser.path).exists():
        raise ValueError(
            f"{run} trains a part of the network in {parsed.denoiser.path}, which is not there: put it back, or give "
            "its folder with --denoiser.path"
        )
    changed = config | resolved(options, parsed)
    if whole:
        changed[section] = config[section]
    return trainer_of(options, parsed, run, changed)


def trainer_of(options: Any, parsed: Any, out: Path, config: dict[str, Any]) -> Any:
    """The trainer of a namespace; its network is remembered as the configuration says it."""
    import torch

    from sparring.generators import Bridge, Denoiser, Guide, LatentGenerator
    from sparring.training import Trainer

    torch.manual_seed(parsed.trainer.seed)  # initial weights
    objects = instantiate(options, parsed)
    section = config[of_generator(config)]
    net = section.get("net") or (section.get("init_args") or {}).get("net")
    generator = objects.method.generator
    if isinstance(net, dict) and isinstance(generator, Denoiser | LatentGenerator | Guide | Bridge):
        remember(generator.net, net)
    return Trainer(objects.method, objects.data, out=out, config=config, **objects.trainer.as_dict())


def read_config(run: Path) -> dict[str, Any]:
    """The config.yaml of a run that `sparring fit` started.

    Raises:
        ValueError: it is of another program, or damaged.
    """
    from sparring.runs import RunFolder

    config = RunFolder(run).read_config()
    if not config.keys() >= {"recipe", "data", of_generator(config), "method", "trainer"}:
        raise ValueError(f"{run} was not started by `sparring fit`: resume it from the program that made it")
    return config


def up_to_date(config: dict[str, Any]) -> dict[str, Any]:
    """The config.yaml of a run with every setting that there was not yet when it was trained, at its default."""
    sections = {name: config[name] for name in SECTIONS if name in config}
    options, parsed = parse(sections, [], config.get("init") is not None)
    return config | resolved(options, parsed)


def check_same(config: dict[str, Any], recipe: str, setting: str | None, data: str | None, init: str | None) -> None:
    """Refuses a recipe, `--on`, `--data` or `--init` that is not what the run with this config.yaml started with."""
    if Path(recipe).name not in (Path(str(config["recipe"])).name, "config.yaml"):
        raise ValueError(
            f"the run was started by `sparring fit {config['recipe']}`, not by {recipe}: name the same one"
        )
    if setting is not None and setting != config.get("setting"):
        raise ValueError(f"`--on {setting}` is not what the run was started on; leave it out with --resume")
    started = config[of_generator(config)]
    origin = started.get("path") or started.get("init_args", {}).get("folder")
    if init is not None and (os.path.abspath(init) if os.path.exists(init) else init) != origin:
        raise ValueError(f"`--init {init}` is not what the run started from; leave it out with --resume")
    if data is not None and data_section(data, config) != with_absolute_paths(config["data"]):
        raise ValueError(f"`--data {data}` is not the data that the run has; leave it out with --resume")


def resolved(options: Any, parsed: Any) -> dict[str, Any]:
    """What config.yaml keeps of a namespace; local paths of data are absolute, to resume from any folder."""
    config: dict[str, Any] = yaml.safe_load(options.dump(parsed, skip_unset=False))
    config.pop("config", None)
    return config | {"data": with_absolute_paths(config["data"])}


def section_of(recipe: dict[str, Any], init: str, allow: Sequence[str]) -> dict[str, Any]:
    """The section of what is trained when it is read from a folder: a recipe's, without the network it would build.

    What the folder may name is never taken from the recipe.
    """
    folder = os.path.abspath(init) if os.path.exists(init) else init
    if of_generator(recipe) == "generator":
        settings = {"folder": folder, "allow": list(allow)}
        return {"class_path": "sparring.generators.load_generator", "init_args": settings}
    own = recipe.get("denoiser") or {}
    kept = {k: v for k, v in own.items() if k not in ("net", "process", "prediction")}
    if coupling := ((own.get("process") or {}).get("init_args") or {}).get("coupling"):  # how it is trained, not what
        kept["coupling"] = coupling
    return kept | {"path": folder, "allow": list(allow)}


def coupled(recipe: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose noise goes to images as in the training that it starts from, unless it says how.

    Args:
        recipe: as composed.
        start: settings of that training.
    """
    of_process = ("denoiser", "process", "init_args", "coupling")
    coupling, chosen = inside(start, "denoiser", "coupling") or inside(start, *of_process), inside(recipe, *of_process)
    if not coupling or chosen or recipe.get("start") == BESIDE or of_generator(recipe) == "generator":
        return recipe
    return laid_over(recipe, {"denoiser": {"process": {"init_args": {"coupling": coupling}}}})


def inside(node: Any, *names: str) -> Any:
    """What stands at a dotted place of a configuration; None if there is no such place."""
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def data_section(word: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The `data` for a word such as `digits`, a folder or a parquet file; a recipe's settings for that class stay.

    Where the recipe's data gives images their sources, the word names those images.
    """
    from sparring.data import named

    kind, settings = named(word)
    class_path = f"sparring.data.{kind.__name__}"
    own = recipe.get("data") or {}
    if isinstance(own, dict) and own.get("class_path") in WITH_SOURCES:
        return with_absolute_paths({**own, "init_args": {**own.get("init_args", {}), "path": word}})
    kept = own.get("init_args", {}) if isinstance(own, dict) and own.get("class_path") == class_path else {}
    return with_absolute_paths({"class_path": class_path, "init_args": {**kept, **settings}})


def with_absolute_paths(data: dict[str, Any]) -> dict[str, Any]:
    """A `data` section whose local files and folders, where they are there, can be found from any folder."""
    settings = dict(data.get("init_args") or {})
    for name in ("path", "source", "holdout"):
        value = settings.get(name)
        if name == "holdout" and data["class_path"].endswith(".HubData") and not str(value).endswith(".parquet"):
            continue  # a split
        if isinstance(value, str) and (os.path.exists(value) or glob(value)):
            settings[name] = os.path.abspath(value)
    return {**data, "init_args": settings} if settings else data


def one_line(error: Exception) -> str:
    """jsonargparse's message in one line, without what it says about types that were not meant."""
    text = " ".join(str(error).split())
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: -?", "", text)
    text = re.sub(r"- Expected a <class 'NoneType'>|Given value type: .*?(?=Given value:|$)|Given value: .*$", "", text)
    text = re.sub(
        r"Not a valid subclass of (\w+)\. Got value: (\w+)\(.*$",
        r"this method trains a \1, and --init or its own settings give it a \2",
        text,
    )
    text = re.sub(r" ?\. Got value: Namespace\(.*$", "", text)
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid -?", "", text)
    text = re.sub(r'Parser key "(.*?)": ', r"`\1`: ", text)
    text = re.sub(r"<class '(.*?)'>", r"\1", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)$", r"\2 is none of \1", text)
    text = re.sub(r"Problem with given class_path '(.*?)':", r"\1:", text)
    return re.sub(
        r"Expected a dot import path string: (\S+)", r"no class \1 (give its import path)", " ".join(text.split())
    )
