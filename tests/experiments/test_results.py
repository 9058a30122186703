"""Results files: tables of pooled numbers, the documents made from them, and the documents of this repository."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from sparring.evaluation import Comparison
from sparring.experiments.collect import of_methods
from sparring.experiments.figures import draw_curves
from sparring.experiments.results import SettingResults, StudyResults, Table, fill_pages, filled
from sparring.recipes.compose import compose, shipped
from sparring.runs import RunSummary
from sparring.runs.results import Result

DOCS = Path(__file__).resolve().parents[2] / "docs" / "results"
COUNT = r"([\d.]+ [kM]) parameters"


def counts(setting, **changes):
    """The number of parameters of the network of a setting, in words."""
    net = compose("diffusion", setting, tuned=False)["denoiser"]["net"]
    module, _, kind = net["class_path"].rpartition(".")
    made = getattr(import_module(module), kind)(**net.get("init_args", {}) | changes)
    number = sum(parameter.numel() for parameter in made.parameters())
    return {f"{number / 1e3:.0f} k", f"{number / 1e6:.2f} M"}


def test_the_counts_of_parameters_on_the_pages_are_those_of_the_networks():
    texts = [(DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("add", "adt", "ddo", "sadm")]
    pages = {count for text in texts for count in re.findall(COUNT, text)}
    assert len(pages) >= 4
    assert pages <= counts("digits", block_out_channels=[8, 16]).union(
        *map(counts, ("digits", "fashion16", "fashion32"))
    )
    said = {setting: re.findall(COUNT, about) for setting, about in shipped("settings").items()}
    assert sum(map(len, said.values())) >= 6
    assert [setting for setting, found in said.items() if found and not set(found) <= counts(setting)] == []


def table(**changes):
    return Table(
        **{
            "kind": "distance",
            "columns": ["arm", "training NFE", "ddim 5", "dpm 5", "P/R ddim 5"],
            "rows": [
                ["plain", "300", "1.03±0.12", "0.682±0.088", "0.84/0.86"],
                ["m = 10, k = 2", "1010", "0.675±0.124", "", "0.85/0.88"],
            ],
            "features": "classifier",
            "split": "holdout",
            "n": 1000,
            "n_reference": 500,
            "floor": 0.2634,
        }
        | changes
    )


RATIO = Table(
    kind="ratio",
    columns=["arm", "features", "ddim 5"],
    rows=[["adt", "classifier", "0.495±0.091"], ["adt", "pixels", "0.459±0.028"]],
    control="plain",
)
VERDICTS = [
    {"name": "adt", "verdict": "gain", "sentence": "At equal scheduler: helps."},
    {"name": "m = 10, k = 2", "verdict": "no gain", "sentence": "Nothing."},
]


@pytest.fixture
def results():
    setting = SettingResults(tables=[table(), RATIO], verdicts=VERDICTS)
    return StudyResults(
        name="small", command="sparring study small", revision=None, seeds=[0, 1], settings={"digits": setting}
    )


def test_a_results_file_comes_back_as_it_was_written(results, tmp_path):
    file = tmp_path / "data" / "small.json"
    results.write(file)
    assert StudyResults.read(file) == results
    assert '["plain", "300", "1.03±0.12", "0.682±0.088", "0.84/0.86"]' in file.read_text()


@pytest.mark.parametrize("text", ["", "[]", '{"name": 1}', '{"settings": {"digits": {"tables": [{"kind": 1}]}}}'])
def test_another_file_is_refused_in_one_line(text, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=r"bad.json is not a results file of `sparring study`"):
        StudyResults.read(tmp_path / "bad.json")


def test_the_smallest_distance_of_each_sampler_is_bold():
    assert table().markdown().splitlines() == [
        "| arm | training NFE | ddim 5 | dpm 5 | P/R ddim 5 |",
        "|---|--:|--:|--:|--:|",
        "| plain | 300 | 1.03±0.12 | 0.682±0.088 | 0.84/0.86 |",
        "| m = 10, k = 2 | 1010 | **0.675±0.124** |  | 0.85/0.88 |",
    ]
    assert table().caption("digits") == "digits, classifier, holdout; n = 1000 against 500, floor 0.263"
    assert "**" not in RATIO.markdown()


def test_the_most_modes_and_good_points_of_each_sampler_are_bold():
    rows = [["hinge × none", "", "7.0±1.0"], ["hinge × R1", "", "8.0±0.0"], ["plain", "8.0", ""]]
    modes = table(kind="modes", columns=["arm", "ddim 5", "one call 1"], rows=rows, floor=None)
    assert modes.markdown().splitlines()[2:] == [
        "| hinge × none |  | 7.0±1.0 |",
        "| hinge × R1 |  | **8.0±0.0** |",
        "| plain | 8.0 |  |",
    ]
    assert modes.caption("ring") == "ring, modes covered, classifier, holdout; n = 1000 against 500"


def test_what_methods_measure_makes_a_table_of_means_over_seeds():
    def runs(arm, *measures):
        for seed, found in enumerate(measures):
            results = (Result(scheduler="one call", nfe=1, frechet=1.0, measures=found),) * 2
            yield RunSummary(name=f"{arm}-s{seed}", folder=Path(arm), arm=arm, method="GAN", seed=seed, results=results)

    comparison = Comparison.of([*runs("a", {"error": 0.1}, {"error": 0.3, "probe": 0.5}), *runs("b", None)])
    (table,) = of_methods(comparison)
    assert (table.kind, table.columns) == ("measures", ["arm", "error", "probe"])
    assert table.rows == [["a", "0.200±0.141", "0.500"], ["b", "", ""]]
    assert of_methods(Comparison.of([*runs("b", None)])) == []


def test_arms_of_two_parts_make_a_crossed_table():
    rows = [["plain", "", "3", "8.0"], ["hinge × none", "7.0", "2", ""], ["hinge × R1", "8.0", "2", ""]]
    rows += [["least squares × R1", "6.0", "2", ""]]
    modes = table(kind="modes", columns=["arm", "one call 1", "training NFE", "ddim 5"], rows=rows)
    assert modes.crossed().markdown().splitlines() == [
        "|  | none | R1 |",
        "|---|--:|--:|",
        "| hinge | 7.0 | 8.0 |",
        "| least squares |  | 6.0 |",
    ]
    with pytest.raises(ValueError, match="no arm is called A × B: there are plain, m = 10, k = 2"):
        table().crossed()
    with pytest.raises(ValueError, match="the arm 'a × b' has 2 samplers: name one of them with `columns`"):
        table(rows=[["a × b", "1", "2", "3", ""]]).crossed()


def test_latex_escapes_what_latex_reads():
    text = table(rows=[["50 %_x & y", "1", "1±0.1", "2", ""], ["b", "1", "2±0.1", "3", ""]]).latex()
    assert r"50 \%\_x \& y & 1 & \textbf{1$\pm$0.1} & \textbf{2} &  \\" in text
    assert text.startswith("\\begin{tabular}{lrrrl}\n\\toprule")


def test_places_of_a_page_are_filled(results, tmp_path):
    results.write(tmp_path / "data" / "small.json")
    page = tmp_path / "page.md"
    page.write_text(
        "Before\n\n"
        "<!-- table: small distance arms='m = 10, k = 2' columns='ddim 5' -->\nold\n<!-- end -->\n\n"
        "<!-- table: small ratio control=plain features=pixels caption=no -->\n<!-- end -->\n\n"
        "<!-- table: small verdicts arms=adt -->\n<!-- end -->\nAfter\n"
    )
    assert fill_pages(tmp_path) == [page]
    assert page.read_text() == (
        "Before\n\n"
        "<!-- table: small distance arms='m = 10, k = 2' columns='ddim 5' -->\n"
        "digits, classifier, holdout; n = 1000 against 500, floor 0.263\n\n"
        "| arm | training NFE | ddim 5 |\n|---|--:|--:|\n| m = 10, k = 2 | 1010 | 0.675±0.124 |\n\n<!-- end -->\n\n"
        "<!-- table: small ratio control=plain features=pixels caption=no -->\n"
        "| arm | features | ddim 5 |\n|---|---|--:|\n| adt | pixels | 0.459±0.028 |\n\n<!-- end -->\n\n"
        "<!-- table: small verdicts arms=adt -->\n- **adt**, gain. At equal scheduler: helps.\n\n<!-- end -->\nAfter\n"
    )
    assert fill_pages(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("other distance", "other.json is not a results file"),
        ("small shares", "there is no table shares: there are distance classifier, ratio plain"),
        ("small distance arms=adt", "the table has no 'adt': it has plain, m = 10, k = 2"),
        ("small distance columns='ddim 9'", "the table has no 'ddim 9'"),
        ("small distance setting=ring", "small has no setting 'ring': it has digits"),
        ("small distance rows=1", "unknown word rows"),
        ("small distance loud", "`loud` is not KEY=VALUE"),
        ("small", "a place names a study and a kind of table"),
    ],
)
def test_a_place_that_cannot_be_filled_is_one_line(words, message, results, tmp_path):
    results.write(tmp_path / "small.json")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        filled(f"<!-- table: {words} -->\n<!-- end -->", tmp_path)
    assert f"<!-- table: {words} -->" in str(caught.value)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_tables_of_the_documentation_are_those_of_the_results_files(page):
    text = page.read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->")
    assert filled(text, DOCS / "data") == text, "make them again: sparring study STUDY --print --write"


def test_every_results_file_has_a_place_in_the_documentation():
    named = {
        words.split()[0]
        for page in DOCS.glob("*.md")
        for words in re.findall(r"<!-- table: (.+?) -->", page.read_text())
    }
    assert named == {file.stem for file in (DOCS / "data").glob("*.json")}


def test_an_arm_has_one_colour_in_every_panel_of_a_figure(tmp_path):
    rows = [["first", "4.0±0.1", ""], ["second", "3.0", "2.0±0.2"]]
    table = Table(kind="distance", columns=["arm", "ddim 5", "unipc 5"], rows=rows, features="classifier")
    draw_curves({"digits": table}, tmp_path / "curves.svg")
    left, right = (tmp_path / "curves.svg").read_text().split('id="axes_2"')
    right, legend = right.split('id="legend_1"')
    first, second = "#1f77b4", "#ff7f0e"
    assert [colour in part for part in (left, legend) for colour in (first, second)] == [True] * 4
    assert [colour in right for colour in (first, second)] == [False, True]
