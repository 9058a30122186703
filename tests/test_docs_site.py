"""The documentation as a whole: llms.txt names its pages as they are, and the site is built without a warning."""

import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_llms_txt_is_that_of_the_pages():
    spec = spec_from_file_location("llms", ROOT / "docs/llms.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert written == script.llms(), "run `python docs/llms.py`"
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert all(f"]({page})" in written for page in pages)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed (`make docs`)")
def test_the_site_is_built_in_strict_mode(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path), "--theme", "mkdocs"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "methods/adt/index.html").is_file()
    assert not list(tmp_path.rglob("*.py"))
