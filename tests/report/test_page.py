"""The page without a browser: self-contained, complete, escaped, and whole when pieces are missing."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import FRECHET, Demo, changed, make_run
from PIL import Image

from sparring.evaluation import Comparison, Verdict
from sparring.report import write_comparison, write_run_report


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = ""
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._hidden = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("page") / "report.html"
    made = write_comparison(Comparison.of(demo.runs), out, verdicts=demo.verdicts, title="Digits", command="make demo")
    assert made == out
    return Page(out)


def test_page_needs_nothing_outside_itself(page: Page) -> None:
    assert not page.all("link")
    assert not page.all("iframe")
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            if value := attributes.get(key):
                assert value.startswith("data:image/" if tag == "img" else "#"), (tag, key, value[:80])
    assert not re.search(r"url\((?!#)|@import|https?://", page.html)
    assert len(page.html) < 3_000_000


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#|for=")([\w-]+)', page.html)
    assert wanted
    assert set(wanted) <= set(ids)


def test_verdicts_and_then_samples_come_before_the_table(page: Page, demo: Demo) -> None:
    places = ["No gain: sadm.", 'class="verdict"', 'id="samples"', '<table id="results">']
    assert sorted(places, key=page.html.index) == places
    assert "From one seed, with ddim at NFE 10." in page.text
    for verdict in demo.verdicts:
        assert verdict.sentence in page.text
    chips = [a["class"] for a in page.all("span") if str(a.get("class")).startswith("chip")]
    assert sorted(chips) == ["chip gain"] * 3 + ["chip no-gain"] * 2 + ["chip worse"]


def test_table_has_a_row_for_every_result(page: Page) -> None:
    rows = [a for a in page.all("tr") if "data-arm" in a]
    assert len(rows) == sum(len(values) for arm in FRECHET.values() for values in arm.values())
    assert {a["data-scheduler"] for a in rows} == {"ddim", "dpm"}
    assert "1,000 samples against 500 real images, features: digits-classifier" in page.text
    assert "FID" not in page.text


def test_best_is_marked_at_equal_scheduler_and_calls(page: Page) -> None:
    body = page.html[page.html.index("<tbody>") : page.html.index("</tbody>")]
    rows = [re.sub(r"\s+", " ", row) for row in body.split("</tr>") if 'data-scheduler="ddim"' in row]
    at_10 = {re.search(r"</i>(\w+)", r)[1]: r for r in rows if '<td class="number" data-value="10">10</td>' in r}  # type: ignore[index]
    assert 'class="number best" data-value="0.45"' in at_10["ddo"]
    assert not any(f'class="number best" data-value="{FRECHET[a]["ddim"][2]}"' in at_10[a] for a in at_10 if a != "ddo")


def test_figures_and_images_are_there_and_named(page: Page) -> None:
    panels = [a for a in page.all("figure") if a.get("class") == "panel"]
    assert len(panels) == len(page.all("svg"))
    names = [str(a["aria-label"]) for a in panels]
    assert "Frechet distance against NFE with the scheduler ddim" in names
    assert any("Structure" in name for name in names)
    assert any("real solid, fake dashed" in name for name in names)
    assert all(a.get("alt") for a in page.all("img"))
    assert all("pixelated" in str(a.get("class")) for a in page.all("img"))
    assert "Zero throughout, not drawn: skipped" in page.text
    assert {a["data-arm"] for a in page.all("g") if "data-arm" in a} == set("012345")


def test_seeds_of_one_arm_give_mean_and_spread(tmp_path: Path) -> None:
    runs = [
        replace(make_run(tmp_path / str(seed) / arm, seed=seed, factor=factor), arm=arm)
        for seed, factor in enumerate((0.9, 1.0, 1.1))
        for arm in ("plain", "adt")
    ]
    page = Page(write_comparison(Comparison.of(runs), tmp_path / "c.html"))
    rows = [a for a in page.all("tr") if "data-arm" in a]
    assert len(rows) == 16
    assert "0.940 ±0.094" in page.text
    assert "seeds 0, 1, 2" in page.text


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"$x^2$"
    run = make_run(tmp_path / "sadm")
    run = replace(changed(run, scheduler=evil, features=evil), name=evil, arm=evil, method=evil)
    config = tmp_path / "sadm" / "config.yaml"
    config.write_text(config.read_text() + f"\nnote: {json.dumps(evil)}\n")
    with (tmp_path / "sadm" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 400, f"{evil}/{evil}_fake": 1.0, f"{evil}/{evil}_real": math.nan}) + "\n")
    page = Page(
        write_comparison(
            Comparison.of([run]),
            tmp_path / "c.html",
            verdicts=[Verdict(evil, evil, "gain", 1)],
            title=evil,
            command=evil,
        )
    )
    assert len(page.all("script")) == 1
    assert page.text.count("alert(") > 10


def test_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    page = Page(write_run_report(tmp_path / "new"))
    for sentence in ("Not evaluated yet", "No sample grids yet", "No curves yet", "it has no config.yaml"):
        assert sentence in page.text
    assert not page.all("img")


def test_the_field_of_the_discriminator_goes_with_the_samples(page: Page, tmp_path: Path) -> None:
    films = [str(a["alt"]) for a in page.all("img") if "data-step" in a]
    assert [alt for alt in films if alt.startswith("Field")] == [
        f"Field of the discriminator of add at training step {step}" for step in range(0, 301, 60)
    ]
    assert "The discriminator’s field: its logits over the plane" in page.text
    make_run(tmp_path / "plain")
    own = Page(write_run_report(tmp_path / "plain"))
    assert "The discriminator’s field" not in own.text
    assert 'id="samples" class="large"' not in own.html
    Image.effect_noise((512, 512), 60).save(tmp_path / "plain" / "samples" / "000000.png")
    assert 'id="samples" class="large"' in Page(write_run_report(tmp_path / "plain")).html


def test_broken_pieces_are_named(tmp_path: Path) -> None:
    run = tmp_path / "sadm"
    make_run(run)
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "generator/diffusion": 1.0}\n'
        '{"step": 2, "generator/diffusion": NaN, "statistics/accuracy": Infinity}\n'
        '{"step": 3, "generator/diffusion": 0.5, "name": "text", "flag": true}\n{"step": 4, "gene'
    )
    (run / "results.json").write_text(
        '[{"nfe": 10, "scheduler": "ddim", "frechet": NaN, "kernel": null, "n": 9, "features": "x"}, {"frechet": 1}, 3]'
    )
    (run / "config.yaml").write_text("a: [1\n")
    next(iter((run / "samples").glob("0*.png"))).write_bytes(b"\x89PNG broken")
    page = Page(write_run_report(run))
    for sentence in (
        "1 value of generator/diffusion not finite",
        "1 value of statistics/accuracy not finite",
        "1 unreadable line left out",
        "config.yaml cannot be read",
        "1 of the sample grids could not be read",
        "results.json: 2 of 3 results left out",
        "No finite Frechet distance to draw",
        "not finite",
    ):
        assert sentence in page.text
    (run / "results.json").write_text("{")
    assert "results.json: it is not readable as a list of results (not JSON)" in Page(write_run_report(run)).text


def test_large_grids_stay_within_the_budget(tmp_path: Path) -> None:
    run = tmp_path / "plain"
    make_run(run)
    for step in range(0, 300, 10):
        Image.effect_noise((512, 512), 60).save(run / "samples" / f"{step:06d}.png")
    page = Page(write_run_report(run, tmp_path / "out" / "page.html"))
    assert len(page.html) < 3_000_000
    shown = len([a for a in page.all("img") if "data-step" in a])
    assert shown >= 2
    assert f"grids of {shown} of " in page.text
    assert not all("pixelated" in str(a.get("class")) for a in page.all("img"))


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        write_run_report(tmp_path / "b")


def test_results_of_one_row_were_measured_alike(tmp_path: Path) -> None:
    plain, adt = make_run(tmp_path / "plain"), make_run(tmp_path / "adt")
    other = replace(adt.results[0], features="pixels", n=200, frechet=0.0123)
    adt = replace(adt, results=(*adt.results, other))
    page = Page(write_comparison(Comparison.of([plain, adt]), tmp_path / "c.html"))
    assert "0.012" not in page.text
    assert "1 result measured in another way than what is shown left out." in page.text
    assert "features: pixels" not in page.text
    (tmp_path / "adt" / "results.json").write_text(json.dumps([result.to_json() for result in adt.results]))
    own = Page(write_run_report(tmp_path / "adt"))
    assert "1 result measured in another way than what is shown left out." in own.text


def test_the_same_images_are_shown_once_and_words_of_the_house_are_explained(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / arm) for arm in ("plain", "adt")]
    twice = [
        replace(run, results=tuple(replace(r, scheduler="ddim") if r.nfe == 2 else r for r in run.results[4:]))
        for run in runs
    ]
    runs = [replace(run, results=(*other.results, run.results[4])) for run, other in zip(runs, twice, strict=True)]
    page = Page(write_comparison(Comparison.of(runs), tmp_path / "c.html"))
    assert "dpm 2 draws the same images as ddim 2 and is shown once." in page.text
    assert len([a for a in page.all("tr") if "data-arm" in a]) == 8
    for word in ("Arm", "Floor", "NFE", "Log-SNR"):
        assert f"<dt>{word}</dt>" in page.html
    assert "Fidelity and diversity (higher is better)" in page.text


def test_a_verdict_without_a_control_is_no_verdict_of_no_gain(tmp_path: Path) -> None:
    run = make_run(tmp_path / "adt")
    nothing = Verdict("adt", "At equal scheduler: nothing to compare.", "not compared", 0)
    page = Page(write_comparison(Comparison.of([run]), tmp_path / "c.html", verdicts=[nothing]))
    assert "Nothing to compare with: adt." in page.text
    assert "○ not compared" in page.text
    assert "No gain" not in page.text
