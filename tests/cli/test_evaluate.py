"""`sparring evaluate` of several sources and settings at once, pipelines among runs, and advice that works."""

import csv
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.cli.main import main
from sparring.data import Digits
from sparring.samplers import save_images

QUICK = ["--features", "pixels", "--n", "24"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a tiny run, a tuned one, and a copy of the first one's pipeline."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(folder / "base")]) == 0
    tuned = ["fit", "adt", "--on", "tiny", "--init", str(folder / "base"), "--out", str(folder / "adt-s0")]
    assert main([*tuned, "--trainer.steps", "2"]) == 0
    shutil.copytree(folder / "base" / "pipeline", folder / "model")
    save_images(Digits("validation").images(24), folder / "images")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def printed(capsys, arguments: list[str]):
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main(arguments) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(capsys, arguments: list[str]) -> str:
    """The one line of a command that must fail."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


class FastClock:
    """Four seconds pass between two looks."""

    def __init__(self):
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return 4.0 * self.looks


def test_plain_lines_are_few_and_say_what_is_left(runs, capsys, monkeypatch):
    """Twelve measurements of less than ten seconds are no twelve lines; long ones say where they are."""
    arguments = ["evaluate", str(runs / "base"), "--steps", "1", "2", "3", "--scheduler", "ddim", "euler", *QUICK]
    capsys.readouterr()
    assert main([*arguments, "--seeds", "0", "1"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert lines[0] == f"[1/12] {runs / 'base'}, ddim, 1 step, seed 0"
    assert len(lines) < 6
    monkeypatch.setattr("sparring.data.waiting.time", FastClock())
    assert main([*arguments, "--seeds", "0"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert 6 <= len(lines) <= 18
    assert all(
        re.fullmatch(r"\[./6\] .*, seed 0(: \d+%)?, about \d+ (s|minutes) left", line) for line in lines[1:-1]
    ), lines


def test_sampling_for_long_says_where_it_is(runs, capsys, monkeypatch, tmp_path):
    arguments = ["sample", str(runs / "base"), "--n", "8", "--batch_size", "2", "--steps", "3"]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sparring.data.waiting.time", FastClock())
    assert main([*arguments, "--out", str(tmp_path / "b.png")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 12
    assert all(re.fullmatch(r"sampling 8 images: \d+%(, about \d+ (s|minutes) left)?", line) for line in lines), lines
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_results_of_a_run_that_cannot_be_written_are_printed_all_the_same(runs, capsys, monkeypatch):
    monkeypatch.setattr("sparring.cli.evaluate.os.access", lambda path, mode: False)
    before = sorted(path.name for path in (runs / "base").iterdir())
    result = printed(capsys, ["evaluate", str(runs / "base"), "--steps", "2", *QUICK, "--json"])
    assert result["nfe"] == 2
    assert sorted(path.name for path in (runs / "base").iterdir()) == before


def test_several_of_everything_are_measured_in_one_call(runs, capsys):
    base, adt = str(runs / "base"), str(runs / "adt-s0")
    several = ["evaluate", base, adt, "--steps", "2", "3", "--scheduler", "ddim", "unipc", "--seeds", "0", "1"]
    capsys.readouterr()
    assert main([*several, *QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    wanted = [(s, name, n, seed) for s in (base, adt) for name in ("ddim", "unipc") for n in (2, 3) for seed in (0, 1)]
    assert [(r["source"], r["scheduler"], r["nfe"], r["seed"]) for r in found] == wanted
    assert err.startswith("[1/16] ")
    one = printed(capsys, ["evaluate", adt, "--steps", "3", "--scheduler", "unipc", "--seed", "1", *QUICK, "--json"])
    assert {key: one[key] for key in ("frechet", "kernel", "precision")} == {
        key: found[-1][key] for key in ("frechet", "kernel", "precision")
    }
    assert "source" not in one
    assert len(json.loads((runs / "adt-s0" / "results.json").read_text())) == 8
    assert main([*several, *QUICK]) == 0
    table = capsys.readouterr().out
    assert table.count("unipc 3") == 4
    assert "n = 24 against 500 real images" in table


def test_the_reference_is_read_once_for_all(runs, capsys, monkeypatch):
    from sparring.metrics import Reference

    made = []
    monkeypatch.setattr(
        Reference, "_statistics", lambda self, *a, real=Reference._statistics: made.append(1) or real(self, *a)
    )
    monkeypatch.setenv("SPARRING_CACHE", str(runs / "fresh"))
    sources = [str(runs / name) for name in ("base", "adt-s0")]
    assert main(["evaluate", *sources, "--steps", "1", "2", *QUICK]) == 0
    assert made == [1]


def test_a_pipeline_is_measured_against_a_runs_holdout_and_compared_with_runs(runs, capsys, tmp_path):
    """What the guide to Stable Diffusion ends with: the model that was tuned, and the tuned one."""
    model, adt, base = str(runs / "model"), str(runs / "adt-s0"), str(runs / "base")
    result = printed(capsys, ["evaluate", model, "--reference", adt, "--steps", "2", *QUICK, "--json"])
    assert (result["reference"], result["train"]) == ("digits:holdout", "digits")
    own = printed(capsys, ["evaluate", base, "--steps", "2", *QUICK, "--json"])
    assert result["frechet"] == pytest.approx(own["frechet"], rel=1e-6)  # the same weights, seen by the same features
    assert main(["evaluate", adt, "--steps", "2", *QUICK]) == 0
    found = printed(capsys, ["compare", model, adt, "--json"])
    assert [(run["name"], run["method"], run["seed"]) for run in found["runs"]] == [
        ("model", "pipeline", None),
        ("adt-s0", "ADT", 0),
    ]
    assert found["verdicts"][0]["name"] == "adt"
    assert found["verdicts"][0]["comparisons"][0]["control"] == pytest.approx(result["frechet"])
    assert found["verdicts"][0]["headline"].endswith(", one seed")
    elsewhere = tmp_path / "results" / "model"
    command = ["evaluate", model, "--reference", adt, "--steps", "2", *QUICK, "--out", str(elsewhere)]
    assert main(command) == 0
    assert {path.name for path in elsewhere.iterdir()} == {"results.json", "samples", "neighbours.png"}
    assert main(["compare", str(elsewhere), adt, "--out", str(tmp_path / "c.html")]) == 0
    assert "Grid of samples of model, ddim, NFE 2" in (tmp_path / "c.html").read_text()


def test_training_calls_of_the_start_are_said(runs, capsys):
    assert main(["evaluate", str(runs / "base"), str(runs / "adt-s0"), "--steps", "2", *QUICK]) == 0
    found = printed(capsys, ["compare", str(runs / "base"), str(runs / "adt-s0"), "--json"])
    base, adt = found["runs"]
    assert base["network_calls_before"] == 0
    assert adt["network_calls_before"] == base["network_calls"] == 4
    assert main(["compare", str(runs / "base"), str(runs / "adt-s0")]) == 0
    assert re.search(r"of its start before\W+0\W+4", capsys.readouterr().out)


def test_one_setting_can_be_fixed_beforehand(runs, capsys):
    sources = [str(runs / "base"), str(runs / "adt-s0")]
    assert main(["evaluate", *sources, "--steps", "2", "3", *QUICK]) == 0
    found = printed(capsys, ["compare", *sources, "--at", "ddim:3", "--json"])["verdicts"][0]
    assert [(c["scheduler"], c["nfe"]) for c in found["comparisons"]] == [("ddim", 3)]
    assert "ddim 3 fixed beforehand" in found["sentence"]
    assert "nobody was measured there; known: " in fails(capsys, ["compare", *sources, "--at", "ddim:9"])
    assert "such as dpm:10" in fails(capsys, ["compare", *sources, "--at", "ten"])


def test_a_comparison_is_written_as_csv_markdown_and_latex(runs, capsys, tmp_path):
    sources = [str(runs / "base"), str(runs / "adt-s0")]
    assert main(["evaluate", *sources, "--steps", "2", *QUICK]) == 0
    for ending in ("csv", "md", "tex"):
        assert main(["compare", *sources, "--out", str(tmp_path / f"r.{ending}")]) == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    kept = json.loads((runs / "base" / "results.json").read_text())
    first = next(row for row in rows if row["arm"] == "base" and row["nfe"] == "2" and row["scheduler"] == "ddim")
    assert float(first["frechet"]) in [r["frechet"] for r in kept]
    assert (first["method"], first["seeds"], first["frechet_deviation"]) == ("Diffusion", "1", "")
    lines = (tmp_path / "r.md").read_text().splitlines()
    assert lines[0].startswith("| Arm | Scheduler | NFE | Frechet | Kernel |")
    assert {line.count("|") for line in lines if line.startswith("|")} == {lines[0].count("|")}
    assert any(line.startswith("- **adt**, ") for line in lines)
    latex = (tmp_path / "r.tex").read_text()
    assert latex.count("&") % latex.count(r" \\") == 0
    assert r"\begin{tabular}" in latex
    assert r"\toprule" in latex
    assert "must end in one of .html, .csv, .md, .tex" in fails(capsys, ["compare", *sources, "--out", "r.txt"])


@pytest.mark.parametrize("flag", [["--size", "16"], ["--pad", "2"], ["--limit", "9"], ["--text_column", "text"]])
def test_a_setting_without_effect_is_refused(runs, capsys, flag):
    error = fails(capsys, ["evaluate", str(runs / "base"), *flag])
    assert f"`{flag[0][2:]}={flag[1]}` has no effect" in error
    if flag[0] not in ("--limit", "--pad"):  # which digits have
        assert "no such setting" in fails(capsys, ["evaluate", str(runs / "base"), "--reference", "digits", *flag])


def test_coloured_fakes_are_not_measured_as_grey_ones(runs, capsys, tmp_path):
    images = Digits("validation").images(24).expand(-1, 3, -1, -1).clone()
    save_images(images, tmp_path / "rgb")  # grey in files of three channels
    against = ["--reference", "digits", *QUICK, "--json"]
    grey = printed(capsys, ["evaluate", str(runs / "images"), *against])
    assert printed(capsys, ["evaluate", str(tmp_path / "rgb"), *against])["frechet"] == grey["frechet"]
    images[5, 0] = -images[5, 0]
    save_images(images, tmp_path / "colour")
    error = fails(capsys, ["evaluate", str(tmp_path / "colour"), *against])
    assert "colour holds colour images, and what they are compared with is grey" in error
    other = ["evaluate", str(runs / "base"), "--reference", str(tmp_path / "colour"), *QUICK]
    assert "holds colour images" in fails(capsys, other)
    assert main(["evaluate", str(runs / "base"), "--reference", str(tmp_path / "rgb"), *QUICK]) == 0


def test_images_of_another_size_are_made_equal_as_the_message_says(runs, capsys, tmp_path):
    (tmp_path / "large").mkdir()
    for path in (runs / "images").iterdir():
        Image.open(path).resize((16, 16)).save(tmp_path / "large" / path.name)
    command = ["evaluate", str(tmp_path / "large"), "--reference", "digits", "--features", "pixels"]
    assert "16x16 pixels and the reference 8x8: make them equal with --size or --pad" in fails(capsys, command)
    assert printed(capsys, [*command, "--size", "8", "--json"])["n"] == 24


def test_unreadable_images_are_left_out_as_the_message_says(runs, capsys, tmp_path):
    shutil.copytree(runs / "images", tmp_path / "images")
    (tmp_path / "images" / "000003.png").write_bytes(b"no image")
    command = ["evaluate", str(tmp_path / "images"), "--reference", "digits", "--features", "pixels"]
    assert "set `on_error=skip`" in fails(capsys, command)
    with pytest.warns(UserWarning, match="000003.png"):
        assert printed(capsys, [*command, "--on_error", "skip", "--json"])["n"] == 23


def test_what_is_advised_when_there_is_nothing_to_measure_against_works(runs, capsys):
    model = str(runs / "model")
    assert "give --reference DATA (digits, a folder" in fails(capsys, ["evaluate", model, *QUICK])
    assert main(["evaluate", model, "--reference", "digits", *QUICK]) == 0
    images = ["evaluate", str(runs / "images"), "--reference", "digits:holdout"]
    assert "give --train DATA, or --features pixels" in fails(capsys, images)
    assert main([*images, "--features", "pixels"]) == 0
    assert main([*images, "--train", "digits", "--features", "pixels"]) == 0


def test_a_pipeline_that_was_not_measured_is_told_how(runs, capsys, tmp_path):
    shutil.copytree(runs / "base" / "pipeline", tmp_path / "model")
    error = fails(capsys, ["compare", str(tmp_path / "model"), str(runs / "base")])
    assert "measure a pipeline with `sparring evaluate PIPELINE --reference RUN` first" in error
    assert main(["evaluate", str(tmp_path / "model"), "--reference", str(runs / "base"), *QUICK]) == 0
    assert main(["compare", str(tmp_path / "model"), str(runs / "base")]) == 0


def test_what_fit_advises_next_runs(capsys, tmp_path):
    """A folder whose name a shell would split is quoted."""
    import shlex

    out = tmp_path / "a b"
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(out), "--trainer.steps", "1"]) == 0
    advice = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    program, *words = shlex.split(advice.removeprefix("next: "))
    assert (program, words[0]) == ("sparring", "evaluate")
    assert main([*words, *QUICK]) == 0


def test_what_fit_advises_on_images_of_which_none_is_held_out_runs(runs, capsys, tmp_path, monkeypatch):
    """It says so before it trains, and does not advise to measure what cannot be measured."""
    import shlex

    monkeypatch.chdir(tmp_path)
    fit = ["fit", "diffusion", "--on", "tiny", "--data", str(runs / "images"), "--data.channels", "1"]
    capsys.readouterr()
    assert main([*fit, "--trainer.steps", "1", "--out", "a"]) == 0
    out, err = capsys.readouterr()
    said = "all images of images are trained on; to keep some to measure against: --data.holdout DATA or"
    assert err.startswith(said)
    words = shlex.split(out.splitlines()[-1].removeprefix("next: sparring "))
    assert words[:2] == ["sample", "a"]
    assert main(words) == 0
    assert (tmp_path / "samples.png").is_file()


def test_links_are_followed_as_the_warning_says(runs, capsys, tmp_path):
    shutil.copytree(runs / "images", tmp_path / "images")
    (tmp_path / "images" / "link.png").symlink_to(runs / "images" / "000003.png")
    command = ["evaluate", str(tmp_path / "images"), "--reference", "digits:holdout", "--features", "pixels", "--json"]
    with pytest.warns(UserWarning, match=r"1 behind symbolic links \(set `follow_links=True`\)"):
        assert printed(capsys, command)["n"] == 24
    assert printed(capsys, [*command, "--follow_links"])["n"] == 25
    encoder = ["encoder", str(tmp_path / "images"), "--follow_links", "--epochs", "1"]
    assert main([*encoder, "--out", str(tmp_path / "e.safetensors")]) == 0
    assert "self-supervised, 25 images" in capsys.readouterr().out


def test_a_run_on_own_images_without_a_holdout_is_told_how_and_that_works(runs, capsys, tmp_path):
    fit = ["fit", "diffusion", "--on", "tiny", "--data", str(runs / "images"), "--trainer.steps", "1"]
    fit += ["--data.channels", "1"]
    assert main([*fit, "--out", str(tmp_path / "a")]) == 0
    error = fails(capsys, ["evaluate", str(tmp_path / "a"), *QUICK])
    assert error.endswith("or train with --data.holdout DATA or --data.holdout_share 0.1")
    assert main(["evaluate", str(tmp_path / "a"), "--reference", "digits", *QUICK]) == 0
    assert main([*fit, "--data.holdout_share", "0.3", "--out", str(tmp_path / "b")]) == 0
    assert main(["evaluate", str(tmp_path / "b"), *QUICK]) == 0
    assert main([*fit, "--data.holdout", str(runs / "images"), "--out", str(tmp_path / "c")]) == 0
    assert main(["evaluate", str(tmp_path / "c"), *QUICK]) == 0


def test_shards_and_digits_are_not_told_to_hold_out_what_they_cannot(runs, capsys, tmp_path):
    for number in range(12):
        with tarfile.open(tmp_path / "shard.tar", "a") as file:
            file.add(runs / "images" / f"{number:06d}.png", f"{number:06d}.png")
    fit = ["fit", "diffusion", "--on", "tiny", "--trainer.steps", "1"]
    shards = [*fit, "--data", str(tmp_path / "shard.tar"), "--data.channels", "1"]
    assert main([*shards, "--out", str(tmp_path / "a")]) == 0
    error = fails(capsys, ["evaluate", str(tmp_path / "a"), *QUICK])
    assert error.endswith("give others with --reference DATA, or train with --data.holdout DATA")
    assert main([*shards, "--data.holdout", str(tmp_path / "shard.tar"), "--out", str(tmp_path / "b")]) == 0
    assert main(["evaluate", str(tmp_path / "b"), *QUICK]) == 0
    assert main([*fit, "--data.split", "validation", "--out", str(tmp_path / "c")]) == 0
    error = fails(capsys, ["evaluate", str(tmp_path / "c"), *QUICK])
    assert error.endswith("give others with --reference DATA")
    assert main(["evaluate", str(tmp_path / "c"), "--reference", "digits", *QUICK]) == 0


def test_few_training_images_are_said_in_the_users_words(runs, capsys, tmp_path):
    save_images(Digits().images(1), tmp_path / "one")
    command = ["evaluate", str(runs / "images"), "--reference", "digits:holdout", "--train", str(tmp_path / "one")]
    result = printed(capsys, [*command, "--features", "pixels", "--json"])
    assert result["floor"] == {"n": 1, "source": "train"}  # one image is no floor
    error = fails(capsys, [*command, "--features", "self-supervised"])
    assert "images" in error
    assert "rows, d" not in error


def test_an_unwritable_cache_is_a_warning(runs, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(
        UserWarning, match=r"file/cache cannot be written .*: going on without a cache; \$SPARRING_CACHE"
    ):
        assert main(["evaluate", str(runs / "base"), "--steps", "1", *QUICK]) == 0


def test_many_images_pass_by_in_batches_and_leave_their_pictures(runs, monkeypatch, tmp_path):
    """As many as are asked for are measured, and no more than a batch of them is ever held."""
    from sparring.evaluation import Evaluator, RealImages
    from sparring.samplers import Sampler

    sampler = Sampler(runs / "base")
    held = []
    real = type(sampler.generator).draw

    def counted(self, *arguments, **settings):
        for batch in real(self, *arguments, **settings):
            held.append(len(batch))
            yield batch

    monkeypatch.setattr(type(sampler.generator), "draw", counted)
    evaluator = Evaluator(RealImages.of("digits", None, runs / "base"), "pixels")
    seen = []
    settings = {"n": 150, "steps": 1, "scheduler": "ddim", "seed": 3, "batch_size": 32}
    result = evaluator.sampler(sampler, **settings, pictures=tmp_path, watch=seen.append)
    assert held == [32, 32, 32, 32, 22]
    work = 150 * 2  # each image before its step and after it
    assert sorted(set(seen)) == [done / work for done in (32, 64, 96, 128, 160, 192, 224, 256, 278, 300)]
    assert seen == sorted(seen)
    whole = sampler(150, 1, scheduler="ddim", seed=3, batch_size=32).images
    at_once = evaluator.reference.evaluate(whole)
    for key in ("frechet", "kernel", "precision", "recall", "memorisation"):
        assert getattr(result, key) == pytest.approx(getattr(at_once, key), rel=1e-6)
    assert [pair[:2] for pair in result.closest_pairs] == [pair[:2] for pair in at_once.closest_pairs]
    from sparring.runs.pictures import image_grid, to_uint8

    expected = image_grid(whole[:64])
    assert list(Image.open(tmp_path / "samples" / "final-ddim-1.png").getdata()) == list(expected.getdata())
    near = torch.cat(
        [whole[[fake for fake, _, _ in result.closest_pairs]], Digits()[[i for _, i, _ in result.closest_pairs]][0]]
    )
    picture = image_grid(to_uint8(near).float() / 127.5 - 1, columns=8)
    assert list(Image.open(tmp_path / "neighbours.png").getdata()) == list(picture.getdata())


def test_classes_are_named_by_number_or_by_the_names_of_the_data(runs, capsys, tmp_path):
    for name, start in (("cat", 0), ("dog", 12)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(start, start + 12):
            shutil.copy(runs / "images" / f"{number:06d}.png", tmp_path / "pets" / name)
    fit = ["fit", "diffusion", "--data", str(tmp_path / "pets"), "--data.channels", "1", "--data.labels", "true"]
    small = [f"--trainer.{word}" for word in ("steps=1", "batch_size=8", "num_samples=1", "tracker=none")]
    assert main([*fit, *small, "--data.size=8", "--out", str(tmp_path / "run")]) == 0
    sample = ["sample", str(tmp_path / "run"), "--n", "4", "--steps", "2", "--out"]
    named, numbered = tmp_path / "named.npz", tmp_path / "numbered.npz"
    assert main([*sample, str(named), "--labels", "dog"]) == 0
    assert main([*sample, str(numbered), "--labels", "1"]) == 0
    assert (np.load(named)["arr_0"] == np.load(numbered)["arr_0"]).all()
    error = fails(capsys, [*sample, str(tmp_path / "x.npz"), "--labels", "dog", "cow"])
    assert "`labels=cow`: the classes of" in error
    assert "are cat, dog; numbers from 0 on go too" in error
    error = fails(
        capsys, ["sample", str(runs / "model"), "--n", "2", "--out", str(tmp_path / "x.npz"), "--labels", "cat"]
    )
    assert "has no names of classes" in error


def test_calls_beyond_those_of_the_path_are_printed(runs, capsys):
    plain = ["evaluate", str(runs / "base"), "--steps", "2", *QUICK]
    assert main(plain) == 0
    assert "calls with what was added" not in capsys.readouterr().out
    assert main([*plain, "--with", "autoguidance", "--with.weak", str(runs / "adt-s0"), "--with.weight", "2"]) == 0
    assert "NFE 2 (4 calls with what was added)" in " ".join(capsys.readouterr().out.split())
    error = fails(capsys, [*plain, "--with", "autoguidance", "--with.weak", str(runs / "base")])
    assert "`weak` has the weights of the model that is sampled" in error


def test_a_reference_of_another_size_than_the_training_images_needs_those_too(runs, capsys, tmp_path):
    from torch.nn.functional import interpolate

    large = interpolate(Digits("validation").images(24), size=16)
    save_images(large, tmp_path / "large")
    evaluate = ["evaluate", str(runs / "base"), "--steps", "2", *QUICK, "--reference", str(tmp_path / "large")]
    error = fails(capsys, [*evaluate, "--with", "diffuse_high"])
    assert (
        "(1, 16, 16), those trained on are (1, 8, 8): give --size 8, or --train images like those of the reference"
        in error
    )
    measured = [*evaluate, "--train", str(tmp_path / "large"), "--with", "diffuse_high", "--json"]
    assert printed(capsys, measured)["scheduler"] == "ddim+diffuse_high"


def test_images_that_were_trained_on_are_named_if_they_are_the_reference(runs, capsys):
    command = ["evaluate", str(runs / "images"), "--reference", "digits:holdout", "--features", "pixels", "--json"]
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    assert main([*command, "--train", "digits:holdout"]) == 0
    captured = capsys.readouterr()
    assert "warning: the real images are those that were trained on, so that copies score best" in captured.err
    assert "memorisation" not in json.loads(captured.out)


def test_a_picture_of_a_sampler_with_many_settings_has_a_short_name(runs, tmp_path):
    times = [f"{0.99 - 0.0123456789 * step:.12f}" for step in range(30)]
    words = ["--scheduler", "euler", "--steps", "30", "--with", "auto_diffusion", "--with.times", *times]
    assert main(["evaluate", str(runs / "base"), *QUICK, *words, "--out", str(tmp_path)]) == 0
    (file,) = (tmp_path / "samples").glob("final-*")
    assert len(file.name) < 130
