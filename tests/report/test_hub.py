"""`--push_to_hub`: what is uploaded, what the card says, and nothing without it. The hub is a stand-in."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from sparring.cli.main import main
from sparring.recipes.systems import systems
from sparring.report.hub import bibtex, model_card
from sparring.runs.results import Floor, Result, keep_result


class Hub:
    """Stands for the hub behind `HfApi`: what it was asked, and the files that it was given."""

    def __init__(self, monkeypatch):
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.fails = ""
        monkeypatch.setattr(HfApi, "whoami", lambda api: self.ask("whoami"))
        monkeypatch.setattr(
            HfApi, "create_repo", lambda api, repo, private, exist_ok: self.make(repo, private, exist_ok)
        )
        monkeypatch.setattr(HfApi, "create_commit", self.commit)

    def ask(self, what):
        self.asked.append(what)
        if what == self.fails:
            raise OSError("Connection refused\nby the hub")

    def make(self, repo, private, exist_ok):
        assert private
        assert exist_ok
        self.ask("create_repo")
        self.repo = repo

    def commit(self, repo, operations, commit_message):
        assert repo == self.repo
        self.ask("create_commit")
        for one in operations:
            with one.as_file() as file:
                self.files[one.path_in_repo] = file.read()
        return type("Commit", (), {"repo_url": f"https://hub.invalid/{repo}"})


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A run of ADT on the setting tiny."""
    folder = tmp_path_factory.mktemp("hub")
    for command in (["diffusion"], ["adt", "--init", str(folder / "diffusion")]):
        flags = ["--on", "tiny", "--out", str(folder / command[0]), "--trainer.steps=2", "--trainer.num_samples=2"]
        assert main(["fit", *command, *flags]) == 0
    return folder / "adt"


def test_nothing_is_asked_of_the_hub_without_the_flag(tmp_path, hub):
    run = str(tmp_path / "run")
    assert main(["fit", "diffusion", "--on", "tiny", "--out", run, "--trainer.steps=1", "--trainer.num_samples=1"]) == 0
    assert main(["evaluate", run, "--steps", "1", "--n", "8", "--features", "pixels"]) == 0
    assert main(["sample", run, "--n", "1", "--steps", "1", "--out", str(tmp_path / "one.png")]) == 0
    assert hub.asked == []


def test_a_run_is_uploaded_when_it_is_trained_and_again_when_it_is_measured(tmp_path, tuned, hub, capsys):
    run = tmp_path / "mine"
    flags = ["--on", "tiny", "--init", str(tuned.parent / "diffusion"), "--trainer.steps=1", "--trainer.num_samples=1"]
    assert main(["fit", "adt", "--out", str(run), *flags, "--push_to_hub", "me/digits"]) == 0
    assert hub.asked == ["whoami", "create_repo", "create_commit"]
    assert "on the hub: https://hub.invalid/me/digits" in capsys.readouterr().err
    shipped = {p.relative_to(run / "pipeline").as_posix() for p in (run / "pipeline").rglob("*") if p.is_file()}
    assert set(hub.files) == shipped | {"README.md", "sparring.yaml", "samples.png"}
    assert hub.files["samples.png"] == (run / "samples/000001.png").read_bytes()
    assert b"Nothing was measured" in hub.files["README.md"]
    weights = next(name for name in shipped if name.endswith(".safetensors"))
    assert hub.files[weights] == (run / "pipeline" / weights).read_bytes()
    measure = ["evaluate", str(run), "--steps", "2", "--n", "8", "--features", "pixels", "--push_to_hub", "me/digits"]
    assert main(measure) == 0
    card = hub.files["README.md"].decode()
    (result,) = json.loads((run / "results.json").read_text())
    row = next(line for line in card.splitlines() if line.startswith(f"| {result['scheduler']} | 2 |"))
    assert row.endswith(f"| 8 | {result['n_reference']} of {result['reference']} | {result['features']} |")
    assert f"n=8, features: {result['features']}" in card


def test_the_card_says_what_the_run_says(tuned, tmp_path):
    run = tmp_path / "adt"
    shutil.copytree(tuned, run)
    one = Result(nfe=5, scheduler="ddim", frechet=1.25, precision=0.5, n=1000, n_reference=500, features="classifier")
    keep_result(run, one)
    keep_result(run, Result(**{**one.__dict__, "nfe": 10, "frechet": 0.75, "floor": Floor(frechet=0.125, n=250)}))
    card = model_card(run, "me/digits")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert f"    {config['made_with']['command']}\n" in card.text
    assert f"- started from: `{tuned.parent / 'diffusion'}`" in card.text
    assert re.search(r"^- data: `Digits\(.*\)`$", card.text, re.MULTILINE)
    assert f"torch {config['made_with']['versions']['torch']}" in card.text
    assert 'from_pretrained("me/digits")' in card.text
    assert "| ddim | 5 | None | 1.25 | 0.500 | 1000 | 500 of ? | classifier |" in card.text
    assert "| real images |  |  | 0.125 |  | 250 | 500 of ? | classifier |" in card.text
    assert "eprint = {2504.11423}" in card.text
    assert card.data.tags == ["sparring", "adt"]
    assert card.data.pipeline_tag == "unconditional-image-generation"
    told = {(r.metric_type, r.metric_value): r.metric_name for r in card.data.eval_results}
    assert told["frechet", 0.75] == "Frechet (ddim, NFE 10, n=1000, features: classifier)"
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize("one", [one for one in systems() if "arXiv" in one.paper], ids=lambda one: one.recipe)
def test_every_paper_has_an_entry_with_its_number_and_first_author(one):
    entry, own = bibtex(one, "0.1")
    number = re.search(r"\d{4}\.\d{4,5}", one.paper)[0]
    assert f"eprint = {{{number}}}" in entry
    assert f"year = {{20{number[:2]}}}" in entry
    if "author" in entry:
        author = re.search(r"author = \{(.+)\}", entry)[1]
        assert re.fullmatch(r"[\w-]+( and [\w-]+)?", author), author
        assert author.split(" and ")[0] in one.paper
    else:
        assert one.paper.startswith("arXiv")
    assert entry.count("{") == entry.count("}")
    assert "version = {0.1}" in own


@pytest.mark.parametrize(
    ("repo", "fails", "said"),
    [
        ("digits", "", "`push_to_hub=digits` must be OWNER/NAME"),
        ("me/a b", "", "`push_to_hub=me/a b` must be OWNER/NAME"),
        (
            "me/digits",
            "whoami",
            r"`push_to_hub=me/digits`: the hub does not answer .* \(Connection refused by the hub\)",
        ),
    ],
)
def test_before_anything_is_trained(tmp_path, hub, capsys, repo, fails, said):
    hub.fails = fails
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(tmp_path / "run"), "--push_to_hub", repo]) == 2
    error = capsys.readouterr().err.strip()
    assert re.match(f"sparring: error: {said}", error), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_upload_that_fails_leaves_the_run_and_says_so(tuned, hub, capsys):
    hub.fails = "create_commit"
    measure = ["evaluate", str(tuned), "--steps", "1", "--n", "8", "--features", "pixels", "--push_to_hub", "me/digits"]
    assert main(measure) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the upload failed (Connection refused by the hub); the run in " in error
    assert (tuned / "pipeline/model_index.json").exists()


def test_a_pipeline_or_several_runs_are_no_run(tuned, hub, capsys):
    for sources in ([str(tuned / "pipeline")], [str(tuned), str(tuned)]):
        assert main(["evaluate", *sources, "--push_to_hub", "me/digits"]) == 2
        assert "takes one run" in capsys.readouterr().err
    assert hub.asked == []
