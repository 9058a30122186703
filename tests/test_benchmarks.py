"""The benchmarks run: each prints its tables with the rows it promises, and puts them in its place in a page."""

import importlib
import io
import re
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from sparring.generators.families import families as known_families

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"

ROWS = {
    "step_time": [
        *("bare network", "diffusion", "sadm", "adt", "ddo", "add", "sparring"),
        *("diffusers' unconditional example", "denoising-diffusion-pytorch's Trainer"),
    ],
    "part_time": [
        *("CAFM, one update of each player", "CAFM, four updates of the potential"),
        *("immiscible noise", "TREAD, half of the tokens"),
    ],
    "adversarial_step": [
        *("sparring", "one rollout, bare loop", "two rollouts, the first without a graph"),
        "two rollouts, the first with a graph (as published)",
    ],
    "equal_time": ["both players a step", "one player a step"],
    "gan_step": ["wgan", "r3gan", "diffusion_gan", "ddgan", "projected_gan"],
    "structure_cost": ["plain", "plain and its floor", "SADM, frozen", "SADM, adversarial", "8", "16"],
    "sampling_speed": ["8x8, ddim, 2", "8x8, dpm, 2", "32x32, ddim, 2", "32x32, dpm, 2", "8x8, ddim, 2, guided", "8x8"],
    "adt_memory": ["2", "4"],
    "derivatives": [
        *("forward pass", "forward and backward", "jvp, forward", "jvp, reverse", "jvp, difference"),
        *("two slopes", "two slopes and their gradient", "two intervals and their gradient"),
    ],
    "data_speed": [
        *("memory", "imagefolder", "imagefolder, each time", "imagefolder, each time, 1 worker(s)"),
        *("parquet", "parquet, each time", "parquet, each time, 1 worker(s)"),
        *("parquet shards", "parquet shards, 1 worker(s)", "tar shards", "tar shards, 1 worker(s)"),
    ],
}


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Lets the scripts be imported by name, as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


@pytest.fixture(scope="module")
def smoke(scripts, tmp_path_factory):
    """What a script prints in a smoke run, and the page it has written to; each script runs once."""

    @cache
    def run(name: str) -> tuple[str, str]:
        page = tmp_path_factory.mktemp(name) / "page.md"
        page.write_text(PAGE.read_text())
        with redirect_stdout(io.StringIO()) as printed:
            load(name).main(["--smoke", "--threads", "1", "--write", str(page)])
        return printed.getvalue(), page.read_text()

    return run


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def cells(text: str) -> dict[str, list[str]]:
    """First cell and the others of every row of every Markdown table; all rows of a table have as many cells."""
    found, width = {}, 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        row = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(row) == (width or len(row)), line
        width = len(row)
        found[row[0]] = row[1:]
    return found


@pytest.mark.parametrize("name", ROWS)
def test_smoke_run_prints_the_rows_and_fills_its_place_in_the_page(name, smoke):
    printed, after = smoke(name)
    rows = cells(printed)
    for row in ROWS[name]:
        assert any(re.search(r"\d|not measured", cell) for cell in rows[row]), row
    assert "A smoke run" in printed
    assert f"`python benchmarks/{name}.py --smoke --threads 1`" in printed
    assert re.search(r"1 thread\(s\).*torch \d", printed)

    before = PAGE.read_text()
    place = re.compile(rf"(?<=<!-- table: {name} -->\n).*?(?=<!-- end: {name} -->)", re.DOTALL)
    assert place.search(after).group().strip() == printed.strip()
    assert place.sub("", after) == place.sub("", before)


def test_memory_is_flat_in_the_number_of_steps_and_grows_without_the_cut(smoke):
    held = cells(smoke("adt_memory")[0].split("rise of resident")[0])
    two, four = ([float(cell) for cell in held[m]] for m in ("2", "4"))
    one_step, two_steps, naive = 0, 1, 2
    assert four[one_step] <= 1.02 * two[one_step]
    assert four[two_steps] <= 1.02 * two[two_steps]
    assert four[naive] > 1.1 * two[naive]


def test_both_samplers_make_the_same_images(smoke):
    rows = cells(smoke("sampling_speed")[0])
    of_both = [name for name in ROWS["sampling_speed"] if name.endswith(", 2")]  # the others have no peer
    assert all(float(rows[name][-1]) < 1e-5 for name in of_both)


def test_the_memory_plan_is_what_a_step_needs():
    """4 % apart, both of exact sizes; 10 % are allowed for another version of a network."""
    plan = load("memory_plan")
    rest, most = plan.plan(plan.SMALL, True, 1, 2)
    assert 0 < rest < 1
    assert most == pytest.approx(plan.measured(1, 2), rel=0.1)
    assert plan.dmd2_plan(plan.SMALL, True, 2)[1] == pytest.approx(plan.dmd2_measured(2), rel=0.1)


def test_the_table_of_memory_has_every_family_and_the_numbers_of_the_script():
    families = load("family_memory")
    table = (PAGE.parent / "guides" / "families.md").read_text()
    assert {parts.pipeline for parts in families.FAMILIES.values()} == {*known_families()}
    for name in families.FAMILIES:
        assert f"\n| {name} | " in table
    for name in ("Stable Diffusion 1.5", "PixArt-Sigma"):
        assert families.line(name, families.FAMILIES[name]) in table
    text_encoders = [
        families.row(families.FAMILIES[name])[3:5] for name in ("Stable Diffusion 1.5", "SDXL", "SD3 medium")
    ]
    saved = ", ".join(f"{whole - without:.1f}" for whole, without in text_encoders)
    assert " and ".join(saved.rsplit(", ", 1)) in (PAGE.parent / "scaling.md").read_text()


def test_a_peer_that_is_not_installed_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    with pytest.raises(ImportError):
        load("peers").lucidrains()


def test_page_has_a_place_and_a_command_for_every_script():
    page = PAGE.read_text()
    for name in ROWS:
        assert f"<!-- table: {name} -->\n" in page
        assert f"<!-- end: {name} -->\n" in page
        assert f"`python benchmarks/{name}.py" in page


def test_a_page_without_the_place_is_left_alone(tmp_path):
    timing = load("timing")
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    args = timing.arguments("", repeats=1, argv=["--write", str(page)], batch=(2, "images"))
    with pytest.raises(ValueError, match="has no place"):
        timing.publish("step_time", ["text"], args, "a machine")
    assert page.read_text() == "nothing here\n"


def test_ratio_is_taken_within_rounds():
    timing = load("timing")
    drifting = {"a": [2.0, 4.0, 20.0], "b": [1.0, 2.0, 10.0]}
    assert timing.ratio(drifting, "a", "b") == "2.000 (2.000 to 2.000)"
    assert timing.saved(drifting, "b", "a") == "+50 %"


def test_subjects_take_turns_and_the_warm_up_does_not_count():
    timing = load("timing")
    order = []
    times = timing.in_turns({name: lambda n, name=name: order.append((name, n)) for name in "ab"}, 2, inner=4)
    assert order == [("a", 1), ("b", 1), ("a", 4), ("b", 4), ("b", 4), ("a", 4)]
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}
