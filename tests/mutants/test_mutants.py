"""The list of mutants fits the source: each line to change is there once, each test file exists."""

import pytest
from run import ROOT, mutated, read

MUTANTS = read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant["name"] for mutant in MUTANTS])
def test_the_line_is_there_once_and_the_tests_exist(mutant, tmp_path):
    assert set(mutant) == {"name", "file", "was", "becomes", "tests"}
    copy = tmp_path / "sparring" / mutant["file"]
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / "src/sparring" / mutant["file"]).read_text(encoding="utf-8"), encoding="utf-8")
    mutated(mutant, tmp_path)
    compile(copy.read_text(encoding="utf-8"), mutant["file"], "exec")
    for test in mutant["tests"].split():
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
        assert (ROOT / "tests" / file).is_file()


def test_a_line_that_is_gone_or_there_twice_is_an_error(tmp_path):
    file = tmp_path / "sparring/some.py"
    file.parent.mkdir()
    file.write_text("a = 1\na = 1\n")
    for was in ("b = 1", "a = 1"):
        with pytest.raises(ValueError, match="not once"):
            mutated({"name": "some", "file": "some.py", "was": was, "becomes": "a = 2"}, tmp_path)
