"""The pages of the methods: settings and defaults are those of the code, commands parse, named code exists."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM
from sparring.recipes import recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"diffusion": Diffusion, "sadm": SADM, "adt": ADT, "ddo": DDO, "add": ADD}
EACH = pytest.mark.parametrize("name", PAGES)


def page(name):
    return (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")


@EACH
def test_the_table_of_settings_has_every_argument_with_its_default(name):
    table = page(name).split("## Settings")[1].split("\n##")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", table, flags=re.MULTILINE))
    arguments = inspect.signature(PAGES[name]).parameters.values()
    expected = {p.name: str(p.default) for p in arguments if p.kind is p.KEYWORD_ONLY}
    assert rows == expected


@EACH
def test_the_commands_parse(name):
    commands = re.findall(r"^    (sparring fit .*)$", page(name), flags=re.MULTILINE)
    assert commands
    for command in commands:
        _, _, recipe_name, *flags = shlex.split(command)
        settings, own, rest = recipe.read(recipe_name), {}, []
        while flags:
            flag = flags.pop(0)
            (own.__setitem__(flag, flags.pop(0)) if flag in ("--out", "--init", "--data") else rest.append(flag))
        if "--data" in own:
            settings["data"] = {"class_path": "sparring.data.HubData", "init_args": {"path": own["--data"]}}
        tunes = "denoiser" not in settings
        assert ("--init" in own) == tunes, command
        if tunes:
            settings["denoiser"] = {"path": own["--init"]}
        _, parsed = recipe.parse(settings, rest, tunes=tunes)
        assert parsed.method.class_path.endswith(PAGES[name].__name__)


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
