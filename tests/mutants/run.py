"""Changes one line of the source at a time and runs the tests that must notice: `make mutants`.

    python tests/mutants/run.py            all of the lists here (*.yaml), a line each; exit code 1 if one survives
    python tests/mutants/run.py relativistic ema      those whose name contains a word

The tests must pass on the source as it is first. Every mutant is tested in a process forked from one that has imported
all but the library, on a copy of the source.
"""

import os
import shutil
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KILLED, SURVIVED, WRONG_SOURCE = 1, 0, 70  # exit codes of pytest: some tests failed, all passed; ours: another source


def read() -> list[dict[str, Any]]:
    """The mutants: `name`, `file` below src/sparring, `was` (found exactly once there), `becomes`, `tests`."""
    lists = sorted(Path(__file__).parent.glob("*.yaml"))
    return [mutant for file in lists for mutant in yaml.safe_load(file.read_text(encoding="utf-8"))]


def mutated(mutant: dict[str, Any], source: Path) -> None:
    """Writes the change into a copy of the source.

    Raises:
        ValueError: the line is not there, or there more than once.
    """
    file = source / "sparring" / mutant["file"]
    text = file.read_text(encoding="utf-8")
    if text.count(mutant["was"]) != 1:
        raise ValueError(
            f"{mutant['name']}: {file} holds {mutant['was']!r} {text.count(mutant['was'])} times, not once"
        )
    file.write_text(text.replace(mutant["was"], mutant["becomes"]), encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def run(tests: list[str], mutant: dict[str, Any] | None = None) -> int:
    """Exit code of pytest on the source with the mutant, or as it is; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source)
        if mutant is not None:
            mutated(mutant, source)
        child = os.fork()
        if child == 0:
            output = os.open(Path(folder) / "output", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(ROOT)
            sys.path.insert(0, str(source))
            os.environ["PYTHONPATH"] = str(source)
            found = find_spec("sparring")
            if found is None or not str(found.origin).startswith(str(source)):
                print(f"the tests would import {found}, not the copy")
                os._exit(WRONG_SOURCE)
            import pytest

            os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / t) for t in tests)]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (KILLED, SURVIVED) or (mutant is None and code != SURVIVED):
            print((Path(folder) / "output").read_text(errors="replace")[-3000:])
        return code


def load_what_tests_import() -> None:
    """Imports it once for all mutants, and forgets the library itself, which each of them imports from its own copy."""
    import pytest  # noqa: F401

    sys.path.insert(0, str(ROOT / "src"))
    for name in ("cli.main", "training", "evaluation", "metrics.learned", "report", "experiments.demo"):
        import_module(f"sparring.{name}")
    sys.path.pop(0)
    for name in [name for name in sys.modules if name.split(".")[0] == "sparring"]:
        del sys.modules[name]


def main(words: list[str]) -> int:
    load_what_tests_import()
    chosen = [m for m in read() if not words or any(word in m["name"] for word in words)]
    tests = {m["name"]: m["tests"].split() for m in chosen}
    if run(sorted({test for each in tests.values() for test in each})) != SURVIVED:
        print("the tests fail without a mutant: nothing is known of the mutants")
        return 1
    survived = []
    for mutant in chosen:
        started = time.monotonic()
        code = run(tests[mutant["name"]], mutant)
        word = {KILLED: "killed", SURVIVED: "SURVIVED"}.get(code, f"pytest ended with {code}")
        print(f"{word:9} {time.monotonic() - started:4.0f} s  {mutant['name']}", flush=True)
        survived += [mutant["name"]] if code != KILLED else []
    print(f"{len(chosen) - len(survived)} killed, {len(survived)} survived" + "".join(f"\n  {n}" for n in survived))
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
