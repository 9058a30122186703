"""The list of systems: read from files, complete, and what README shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.cli.main import main
from sparring.recipes.compose import read, shipped
from sparring.recipes.systems import ROOT, STATUSES, markdown, system, systems

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = [one for one in systems() if one.file.startswith("methods/")]
RECIPES = [one for one in systems() if one.file.startswith("recipes/")]


@pytest.mark.parametrize("one", METHODS, ids=lambda one: one.recipe)
def test_every_method_has_name_title_paper_status_recipe_and_page(one):
    assert one.name, f"{one.file}: the first line must read NAME: title (authors, arXiv NUMBER)."
    assert one.title
    assert re.search(r"arXiv \d{4}\.\d{4,5}|(19|20)\d\d", one.paper), f"{one.file}: an arXiv number, or a citation"
    assert one.status in STATUSES, f"{one.file}: needs a line `Status: unproven`, or one of {STATUSES}"
    module = f"sparring.{one.file.removesuffix('.py').replace('/', '.')}"
    assert read(one.recipe)["method"]["class_path"].rpartition(".")[0] == module
    assert (REPOSITORY / one.page).is_file()


@pytest.mark.parametrize("one", RECIPES, ids=lambda one: one.recipe)
def test_a_recipe_that_is_a_system_has_name_title_paper_status_method_and_a_section_of_a_page(one):
    assert one.name, f"{one.file}: the first line must read # NAME: title (authors, arXiv NUMBER)."
    assert one.title
    assert re.search(r"arXiv \d{4}\.\d{4,5}", one.paper)
    assert one.status in STATUSES, f"{one.file}: needs a line `# Status: unproven. Page: docs/…`"
    assert read(one.recipe)["method"]["class_path"].split(".")[2] == one.family
    page = (REPOSITORY / one.page).read_text(encoding="utf-8")
    assert re.search(rf"^##? {re.escape(one.name)}: ", page, re.MULTILINE)
    assert re.search(rf"^    sparring fit {one.recipe} --on ", page, re.MULTILINE)


def test_every_recipe_is_of_a_listed_method():
    assert set(shipped("methods")) == {one.recipe for one in METHODS + RECIPES}


def test_readme_shows_the_list():
    block = re.search(r"<!-- systems: .*? -->\n(.*?)\n<!-- /systems -->", (REPOSITORY / "README.md").read_text(), re.S)
    assert block[1] == markdown(systems())


def test_a_new_file_is_listed_by_existing(tmp_path):
    folder = tmp_path / "methods" / "gan"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Methods."""')
    (folder / "toy.py").write_text(
        '"""TOY-1: a toy method (Somebody et al., arXiv 1234.56789).\n\nStatus: unproven.\n"""\n1 / 0\n'
    )
    (one,) = systems(root=tmp_path)
    assert (one.name, one.title, one.family, one.status) == ("TOY-1", "a toy method", "gan", "unproven")
    assert (one.recipe, one.page) == ("toy", "docs/methods/toy.md")
    assert systems("1234.5", tmp_path) == [one]
    assert systems("somebody", tmp_path) == [one]
    assert systems("adt", tmp_path) == []
    recipes = tmp_path / "recipes" / "methods"
    recipes.mkdir(parents=True)
    text = (
        "# TOY-2: toys with a flag (Else et al., arXiv 1234.56788).\n#\n# Status: no gain. Page: docs/guides/toys.md\n"
    )
    (recipes / "toy_two.yaml").write_text(text + "method:\n  class_path: sparring.methods.gan.toy.Toy\n")
    (recipes / "toy.yaml").write_text("# A toy.\nmethod:\n  class_path: sparring.methods.gan.toy.Toy\n")
    (two,) = systems("1234.56788", tmp_path)
    assert (two.name, two.title, two.status, two.family) == ("TOY-2", "toys with a flag", "no gain", "gan")
    assert (two.recipe, two.page, two.file) == ("toy_two", "docs/guides/toys.md", "recipes/methods/toy_two.yaml")
    assert len(systems(root=tmp_path)) == 2
    (folder / "bare.py").write_text('"""A helper."""\n')
    assert system(folder / "bare.py", tmp_path).name == ""


def test_the_command_lists_without_importing_a_system(capsys):
    code = "import sys; from sparring.cli.main import main; main(['systems', 'tuning'])\n"
    code += "assert 'torch' not in sys.modules and 'sparring.methods' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tuning = sorted(file.stem for file in (ROOT / "methods" / "tuning").glob("[!_]*.py"))
    assert set(tuning) <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert main(["systems", "nothing like it"]) == 2
    assert "no system has 'nothing like it'" in capsys.readouterr().err
