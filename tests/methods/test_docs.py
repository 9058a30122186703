"""The pages of the methods: settings and defaults are those of the code, commands parse, named code exists."""

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sparring.cli.main import parser
from sparring.data import StoredImages
from sparring.recipes import recipe
from sparring.recipes.compose import BESIDE, compose, read, shipped
from sparring.recipes.for_data import GAN_PARTS, GAN_VALUES, setting_for
from sparring.recipes.systems import systems

ROOT = Path(__file__).resolve().parents[2]
OF_RECIPES = {one.recipe: one.page for one in systems() if one.file.startswith("recipes/")}
EACH = pytest.mark.parametrize("name", [name for name in shipped("methods") if name not in OF_RECIPES])


def class_of(name):
    module, _, kind = read(name)["method"]["class_path"].rpartition(".")
    return getattr(import_module(module), kind)


def page(name):
    return (ROOT / OF_RECIPES.get(name, f"docs/methods/{name}.md")).read_text(encoding="utf-8")


@EACH
def test_the_table_of_settings_has_every_argument_with_its_default(name):
    table = page(name).split("## Settings")[1].split("\n##")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", table, flags=re.MULTILINE))
    arguments = inspect.signature(class_of(name)).parameters.values()
    expected = {p.name: str(p.default) for p in arguments if p.kind is p.KEYWORD_ONLY}
    assert rows == expected


@pytest.mark.parametrize("name", shipped("methods"))
def test_the_commands_parse(name):
    commands = re.findall(r"^    (sparring fit .*)$", page(name), flags=re.MULTILINE)
    if name in OF_RECIPES:
        commands = [command for command in commands if command.split()[2] == name]
    assert commands
    for command in commands:
        options, flags = parser().parse_known_args(shlex.split(command)[1:])
        own = StoredImages(torch.zeros(1, 3, 32, 32))
        needs = {"backbone", *GAN_PARTS, *GAN_VALUES} | ({"denoiser"} if options.init is None else set())
        suited = None if options.on else setting_for(own, options.init, needs)[0]
        settings = compose(options.recipe, options.on, tuned=options.init is not None, suited=suited)
        assert options.init is not None or settings.get("start") != "trained", command
        if options.data is not None:
            settings["data"] = {"class_path": "sparring.data.HubData", "init_args": {"path": options.data}}
        beside = settings.get("start") == BESIDE
        if beside:
            settings["method"].setdefault("init_args", {})["denoiser"] = options.init
        elif options.init is not None:
            settings["denoiser"] = {"path": options.init}
        _, parsed = recipe.parse(settings, flags, tuned=options.init is not None and not beside)
        assert parsed.method.class_path.endswith(class_of(options.recipe).__name__)
    assert any(command.split()[2] == name for command in commands)


@EACH
def test_the_code_that_equations_point_to_exists(name):
    """Every class, function, member and file that the table of equations names."""
    table = page(name).split("## Equations and code")[1].strip().split("\n\n")[0]
    source = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src" / "sparring").rglob("*.py")}
    everything = "\n".join(source.values())
    for cell in re.findall(r"\| ([^|]*) \|$", table, flags=re.MULTILINE):
        for code in re.findall(r"`([^`]*)`", cell):
            if code.endswith(".py"):
                assert any(str(path).endswith(code) for path in [*source, ROOT / "tests/rollout/test_rollout.py"]), code
            elif re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)?", code):
                assert re.search(rf"(class|def|import|    ) ?{code.split('.')[-1]}\b", everything), code


@pytest.mark.parametrize("room", ["backbones", "process"])
def test_every_part_that_a_setting_can_name_is_on_a_page(room):
    """Weightings, times and backbones that nobody can find are parts that nobody uses."""
    module = import_module(f"sparring.{room}")
    pages = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs").rglob("*.md"))
    kinds = [getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))]
    named = [kind.__name__ for kind in kinds if not inspect.isabstract(kind) and kind.__name__ != "Backbone"]
    assert len(named) > 5
    assert [name for name in named if not re.search(rf"\b{name}\b", pages)] == []
