"""Runs the tests that touch other libraries most on several versions of these and of Python: `make test-matrix`.

    python tests/matrix/run.py            all of combinations.yaml, and a table in the end; exit code 1 if one failed
    python tests/matrix/run.py oldest     those of these names

Each combination has its environment in build/matrix, made when it is not there. One whose Python is not on the PATH is
left out, and the table says so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "numpy")
TOOLS = ("pytest", "pytest-timeout", "hypothesis")


def requirements(combination: dict[str, Any]) -> list[str]:
    """What pip installs: the dependencies at their minimum, or as they are declared, and torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [one for one in project["dependencies"] if not one.startswith("torch")]
    if combination.get("oldest"):
        declared = [one.replace(">=", "==") for one in declared]
    return [f"torch=={combination['torch']}", *declared]


def constraints(combination: dict[str, Any]) -> str:
    """constraints.txt without torch; of the oldest combination, what the tests are run with."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    kept = TOOLS if combination.get("oldest") else [re.split("==", line)[0] for line in lines]
    return "\n".join(line for line in lines if line.split("==")[0] in kept and not line.startswith("torch=="))


def environment(combination: dict[str, Any], folder: Path) -> Path | None:
    """The interpreter of the combination's environment; None if there is no such Python.

    Raises:
        subprocess.CalledProcessError: something cannot be installed.
    """
    python, own = shutil.which(f"python{combination['python']}"), folder / "bin/python"
    if not own.exists():
        if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode != 0:
            return None
        subprocess.run([python, "-m", "venv", folder], check=True)
    limits = folder / "constraints.txt"
    limits.write_text(constraints(combination))
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, requirements(combination)[0]], check=True)
    subprocess.run([*pip, "-c", limits, *requirements(combination), *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    return own


def versions(python: Path) -> dict[str, str]:
    """Of Python and the libraries, as they are installed."""
    names = json.dumps(SHOWN)
    code = f"import json, platform; from importlib.metadata import version as v; names = {names}; print(json.dumps("
    code += "{'python': platform.python_version()} | {name: v(name) for name in names}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def tested(python: Path, tests: list[str], report: Path) -> str:
    """Runs the tests; how many passed, failed and were skipped, and the names of those that failed."""
    words = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    settings = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(words, cwd=ROOT / "tests", env=settings, stdout=sys.stderr)
    if not report.exists():
        return f"pytest failed ({done.returncode})"
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    failed = [
        case.get("name") or "" for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    told = f"{len(cases) - len(failed) - skipped} passed" + (f", {skipped} skipped" if skipped else "")
    return told + (f", {len(failed)} failed: {' '.join(failed)}" if failed else "")


def row(combination: dict[str, Any], tests: list[str]) -> tuple[list[str], bool]:
    """A line of the table, and whether all is well."""
    name, folder = combination["name"], ROOT / "build/matrix" / combination["name"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    asked = [combination["python"], combination["torch"], *[""] * (len(SHOWN) - 1)]
    try:
        python = environment(combination, folder)
    except subprocess.CalledProcessError:
        return [name, *asked, "cannot be installed"], False
    if python is None:
        return [name, *asked, "no such Python here"], True
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    result = tested(python, tests, report)
    return [name, *versions(python).values(), result], "failed" not in result


def table(rows: list[list[str]]) -> str:
    """In Markdown."""
    head = ["", "Python", *SHOWN, "tests"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(names: list[str]) -> int:
    known = yaml.safe_load(Path(__file__).with_name("combinations.yaml").read_text(encoding="utf-8"))
    chosen = [one for one in known["combinations"] if not names or one["name"] in names]
    if wrong := {*names} - {one["name"] for one in chosen}:
        print(f"unknown: {', '.join(wrong)}; known: {', '.join(one['name'] for one in known['combinations'])}")
        return 2
    rows = [row(one, known["tests"]) for one in chosen]
    print(table([line for line, _ in rows]))
    return 0 if all(well for _, well in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
