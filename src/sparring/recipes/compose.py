"""A recipe is a method laid over a setting: YAML files of the package or of the user, as one mapping.

A setting says where a method runs: `data`, `denoiser`, `trainer`, and `parts` that methods ask for by name
(`$backbone`, `$times`, `$scheduler`; or `class_path: $plain_discriminator`, over which its `init_args` are laid; or
`class_path: $plain_discriminator.net`, the network of that part). What differs from scratch and from a trained start
stands under `scratch` and `tune`. `like` names the setting that it changes; `base`, one of which it is a variant; and
`family`, a file of `generators/families`, the pipelines that it is for. A method is laid over the first setting of a
chain with its variants, and changes of those that are like it over the method. A method's file holds `method`,
`generator` if it trains no denoiser, what it needs everywhere, under `on` what it needs on one setting and on those
like it, and as `next` how `sparring sample` uses RUN, what was trained, with the denoiser that it was trained beside.
"""

import difflib
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("data", "denoiser", "generator", "method", "trainer")
KEYS = {
    "methods": {*SECTIONS, "start", "on", "init", "demo", "next"},
    "settings": {"data", "denoiser", "trainer", "parts", "scratch", "tune", "like", "base", "family"},
}
WRITTEN = ("recipe", "setting", "allow", "made_with")  # by a run, which is a recipe, too
OWN = "own"
NEEDS_START = "this recipe tunes a trained denoiser: give it with --init RUN or --init PIPELINE"
NEEDS_IMAGES = "this setting needs images: give them with --data (a folder, a parquet file)"
OF_FILES = ("sparring.data.HubData", "sparring.data.LowResolution")
"""Classes of settings that leave the files to the user."""
BESIDE = "beside"
"""`start` of a method that trains something beside a trained denoiser, which `--init` gives to it as `denoiser`."""
HERE = Path(__file__).parent


def shipped(kind: str) -> dict[str, str]:
    """Name and one-line description (the first comment) of every file of a kind, "methods", "settings" or "studies"."""
    files = sorted((HERE / kind).glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for file in files}


@cache
def parsed(text: str) -> Any:
    """YAML, read once: a recipe is composed of the same files again and again.

    Raises:
        yaml.YAMLError: not YAML, or a key that stands twice in a mapping, of which YAML would keep the second.
    """
    nodes, seen = [yaml.compose(text, yaml.SafeLoader)], set()
    for node in nodes:
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an alias is a part again
            continue
        seen.add(id(node))
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for number, (key, _) in enumerate(node.value):
                if key.value in keys[:number]:
                    problem = f"the key {key.value!r} stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            parts = [value for _, value in node.value]
        nodes += parts
    return yaml.safe_load(text)


def baseline_of(setting: str) -> Path:
    """The pipeline folder of plain diffusion, trained on a setting, that the package holds (`make baseline`).

    Raises:
        ValueError: it holds none for this setting.
    """
    folder = HERE / "baselines" / setting
    if not folder.is_dir():
        raise ValueError(f"the package holds no trained baseline for the setting {setting}")
    return folder


def read(name: str, kind: str = "methods") -> dict[str, Any]:
    """The file of that name in the package, or a YAML file of the user's, as it stands.

    Raises:
        ValueError: no such name or file; not YAML; not a mapping; a key that a file of this kind does not have.
    """
    what = "recipe" if kind == "methods" else "setting"
    own = name.endswith((".yaml", ".yml")) or os.sep in name
    path = Path(name) if own else HERE / kind / f"{name}.yaml"
    if not path.is_file():
        if own:
            raise ValueError(f"{what} file {name} does not exist")
        names = list(shipped(kind))
        near = [f"{n} --on {name[len(n) + 1 :]}" for n in names if kind == "methods" and name.startswith(f"{n}-")]
        near = near or difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"unknown {what} {name!r}: {hint} (`sparring recipes` lists them; a file ends in .yaml)")
    try:
        content = deepcopy(parsed(path.read_text(encoding="utf-8", errors="replace")))
    except yaml.YAMLError as error:
        raise ValueError(f"{what} {name} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{what} {name} must be a mapping with keys such as {', '.join(sorted(KEYS[kind]))}")
    if True in content:
        content["on"] = content.pop(True)  # as YAML 1.1 reads `on`
    for written in WRITTEN:
        content.pop(written, None)
    if unknown := sorted(map(str, set(content) - KEYS[kind])):
        raise ValueError(f"{what} {name}: unknown key {unknown[0]!r}; it may hold {', '.join(sorted(KEYS[kind]))}")
    return content


def compose(
    name: str, setting: str | None = None, *, tuned: bool = False, suited: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The recipe of a method on a setting: `data`, `denoiser`, `method`, `trainer`; `init`, `missing` and `family` if
    there are.

    Args:
        name: method or file; a file with `data` is whole and takes no setting.
        setting: name or file; None: the user's own data.
        tuned: whether it starts from a trained generator; a method that says `start: trained` always does.
        suited: what suits the user's own data, laid over the setting.

    Raises:
        ValueError: what `read` refuses; a whole recipe with a setting; settings that are like each other in a circle; a
            trained start of a recipe that decides the process; a network of the recipe's on a setting of pipelines.
    """
    recipe = read(name)
    if "data" in recipe:
        if setting is not None:
            raise ValueError(f"{name} names its own data: leave out `--on {setting}`")
        return recipe
    tuned = (tuned or recipe.get("start") == "trained") and recipe.get("start") != BESIDE
    if tuned and decides_process(recipe):
        raise ValueError(
            f"{name} decides how a network is noised, conditioned and read: train it from scratch, no --init"
        )
    if tuned and (recipe.get("denoiser") or {}).get("second_time"):
        recipe["denoiser"] = {"second_time": True}  # all that is added to a trained one
    made: dict[str, Any] = {}
    needs = recipe.pop("on", None) or {}
    own_data, own_net = False, names_network(recipe)
    for number, (names, content) in enumerate(chain(setting or OWN)):
        needed: dict[str, Any] = {}
        for place in names:
            needed = laid_over(needed, needs.get(place) or {})
        special = [content.pop(key, None) or {} for key in ("scratch", "tune")]
        of_data = suited or {} if number == 0 else {}
        own_data = own_data and "class_path" not in (content.get("data") or {})
        if own_data:  # the method's; what the setting says is of other data
            content.pop("data", None)
        own_data = own_data or "class_path" in (needed.get("data") or {})
        if own_net and number > 0:  # the method's, too
            (content.get("denoiser") or {}).pop("net", None)
        own_net = own_net or names_network(needed)
        for layer in (content, special[tuned], of_data, recipe if number == 0 else {}, needed):
            made = laid_over(made, layer)
    if names_network(recipe) and not tuned and "tuning" in made["denoiser"]:
        raise ValueError(f"{name} names its own network, and {setting} tunes that of a pipeline: take another setting")
    parts = {"process": (made.get("denoiser") or {}).get("process")} | made.pop("parts", {})
    parts = {part: content for part, content in parts.items() if part != "process" or content is not None}
    missing: list[str] = []
    with_parts = {key: made[key] for key in ("generator", "method") if key in made}
    made |= dict.fromkeys(with_parts) | filled(with_parts, parts, missing)
    if "generator" in made:  # of the method's own kind
        made.pop("denoiser", None)
    if missing:
        made["missing"] = (
            f"`{', '.join(dict.fromkeys(missing))}`, which {name} needs and the setting {setting or OWN} does not have"
        )
    return made


def decides_process(recipe: dict[str, Any]) -> bool:
    """Whether a method's file names network, process, prediction or own source, which a trained denoiser has.

    Not if it adds the length of a step, which trained denoisers take as well: the method says which of them suit it.
    """
    own = recipe.get("denoiser") or {}
    if own.get("second_time"):
        return False
    has = "prediction" in own or "own_source" in own or "class_path" in (own.get("process") or {})
    return has or names_network(recipe)


def names_network(recipe: dict[str, Any]) -> bool:
    """Whether a method's file, or what it says of a setting, names the class of the denoiser's network."""
    return "class_path" in ((recipe.get("denoiser") or {}).get("net") or {})


def names_data(recipe: dict[str, Any], flags: list[str]) -> bool:
    """Whether the recipe or a flag says what is learned from."""
    return "data" in recipe or any(flag.split("=")[0] in ("--data", "--data.class_path") for flag in flags)


def check_start(recipe: dict[str, Any], flags: list[str], init: str | None) -> None:
    """Refuses a recipe to which the user has to give a trained start, or data."""
    given = any(flag.startswith("--method.denoiser") for flag in flags) and recipe.get("start") == BESIDE
    if init is None and recipe.get("start") in ("trained", BESIDE) and not given:
        raise ValueError(NEEDS_START)
    if not names_data(recipe, flags):
        raise ValueError(
            "this recipe leaves the data to you: give a word with --data (digits, a folder, a parquet file, "
            "hub:OWNER/NAME), or a class with --data.class_path; or a setting with --on (`sparring recipes`)"
        )
    if lacks_files(recipe.get("data"), flags):
        raise ValueError(NEEDS_IMAGES)


def lacks_files(data: Any, flags: list[str]) -> bool:
    """Whether the data are files and nobody says where they are."""
    if not isinstance(data, dict) or data.get("class_path") not in OF_FILES or "path" in (data.get("init_args") or {}):
        return False
    said = ("--data", "--data.class_path", "--data.path", "--data.init_args.path")
    return not any(flag.split("=")[0] in said for flag in flags)


def chain(setting: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Names (of its base, its own) and content of a setting, after those that it is like, the first one first."""
    seen: list[str] = []
    found = [with_base(setting, seen)]
    while like := found[0][1].pop("like", None):
        found.insert(0, with_base(like, seen))
    return found


def with_base(setting: str, seen: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Names and content of a setting laid over its base; adds them to those that were seen."""
    if setting in seen:
        raise ValueError(f"settings {' and '.join(seen)} are like each other: one must stand by itself")
    seen.append(setting)
    content = read(setting, "settings")
    names, below = with_base(base, seen) if (base := content.pop("base", None)) else ([], {})
    return [*names, Path(setting).stem], laid_over(below, content)


def laid_over(base: Any, top: Any) -> Any:
    """`base` with the values of `top`. A mapping for a class may leave out `init_args`; another class replaces all."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return deepcopy(top)
    if "class_path" in base and not {"class_path", "init_args"} & set(top):
        top = {"init_args": top}
    if top.get("class_path", base.get("class_path")) != base.get("class_path"):
        return deepcopy(top)
    return base | {key: laid_over(base.get(key), value) for key, value in top.items()}


def filled(node: Any, parts: dict[str, Any], missing: list[str]) -> Any:
    """A method with the setting's parts in the place of their names; a name that has no part is left out and noted."""
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        name = value.get("class_path") if isinstance(value, dict) else value
        if not (isinstance(name, str) and name.startswith("$")):
            made[key] = filled(value, parts, missing)
            continue
        name, _, argument = name[1:].partition(".")
        if name not in parts or (argument and argument not in parts[name]["init_args"]):
            missing.append(name)
            continue
        part = parts[name]["init_args"][argument] if argument else parts[name]
        if isinstance(value, dict):
            part = laid_over(part, {"init_args": filled(value.get("init_args", {}), parts, missing)})
        made[key] = deepcopy(part)
    return made
