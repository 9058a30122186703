"""What is kept of a measurement: a result per way of measuring and step, and the images a run was trained on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from diffusers import UNet2DModel

from sparring.data import Digits
from sparring.evaluation import Comparison, Evaluator, RealImages, verdicts
from sparring.generators import Denoiser
from sparring.process import VP
from sparring.report import write_run_report
from sparring.runs import Result, summarise
from sparring.runs.results import keep_result, read_results
from sparring.samplers import Sampler

RESULT = Result(nfe=5, scheduler="ddim", seed=0, n=100, n_reference=500, features="pixels", frechet=1.0)


def make_run(path: Path, step: int = 2, split: str = "train", method: str = "Diffusion") -> Path:
    """A run folder with one checkpoint, as far as evaluation and comparison read it."""
    data = {"class_path": "sparring.data.Digits", "init_args": {"split": split}}
    config = {"method": {"class_path": f"sparring.methods.{method}"}, "trainer": {"seed": 0}, "data": data}
    state(path, step).parent.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    state(path, step).write_text(json.dumps({"step": step, "network_calls": 8.0, "seconds": 1.5}))
    return path


def state(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:06d}" / "state.json"


def go_on(run: Path, step: int) -> None:
    """What resuming leaves behind."""
    state(run, step).parent.mkdir()
    state(run, step).write_text(json.dumps({"step": step, "network_calls": 16.0, "seconds": 3.0}))


@pytest.mark.parametrize("change", [{"reference": "fashion"}, {"train": "fashion"}, {"n_reference": 200}, {"seed": 1}])
def test_another_way_of_measuring_does_not_replace_the_first(tmp_path, change):
    run = make_run(tmp_path / "a")
    first = replace(RESULT, reference="digits:holdout", train="digits")
    keep_result(run, first)
    keep_result(run, replace(first, **change))
    keep_result(run, replace(first, frechet=3.0))
    assert [r.frechet for r in read_results(run)] == [1.0, 3.0]
    assert replace(read_results(run)[0], **change) == read_results(run)[0]


def test_results_of_an_earlier_step_are_kept_but_not_shown_as_the_runs_own(tmp_path):
    run = make_run(tmp_path / "a")
    keep_result(run, RESULT)
    assert [r.step for r in summarise(run).results] == [2]
    go_on(run, 4)
    assert summarise(run).results == ()
    assert "1 result of another training step left out" in write_run_report(run).read_text()
    keep_result(run, replace(RESULT, frechet=0.5))
    assert [r.frechet for r in summarise(run).results] == [0.5]
    assert [r.step for r in read_results(run)] == [2, 4]


def test_results_written_without_step_and_names_are_compared_and_replaced(tmp_path):
    runs = [make_run(tmp_path / "plain"), make_run(tmp_path / "adt", method="ADT")]
    result = replace(RESULT, frechet_interval=(0.9, 1.1), precision=1.0)
    old = {key: value for key, value in result.to_json().items() if key not in ("step", "reference", "train")}
    (runs[0] / "results.json").write_text(json.dumps([old]))
    keep_result(runs[1], replace(result, frechet=0.5, reference="digits:holdout", train="digits"))
    found = verdicts(Comparison.of([summarise(run) for run in runs]))
    assert [v.verdict for v in found] == ["gain", "gain"]
    keep_result(runs[0], replace(RESULT, frechet=0.7))
    assert [(r.frechet, r.step) for r in read_results(runs[0])] == [(0.7, 2)]


def test_a_run_without_checkpoints_keeps_its_results(tmp_path):
    run = make_run(tmp_path / "a")
    keep_result(run, RESULT)
    state(run, 2).unlink()
    assert len(summarise(run).results) == 1


@pytest.mark.parametrize("text", ["{}", "{", "[1]", '[{"nfe": 5, "scheduler": "ddim"}]', '[{"frechet": 1.0}]', "\x00"])
def test_results_that_are_none_are_one_line(tmp_path, text):
    run = make_run(tmp_path / "a")
    (run / "results.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"results.json is not a list of results, .*: repair it, or remove it"
    ) as error:
        summarise(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "{", "{}", '{"step": "x", "network_calls": 1, "seconds": 1}'])
def test_a_state_that_is_none_is_one_line(tmp_path, text):
    run = make_run(tmp_path / "a")
    state(run, 2).write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint .*000002 is damaged \(state.json needs `step`") as error:
        summarise(run)
    assert "\n" not in str(error.value)


def test_a_reference_does_not_take_the_place_of_what_the_run_was_trained_on(tmp_path):
    run = make_run(tmp_path / "a", split="validation")
    real = RealImages.of("digits", None, run)
    assert (real.reference.name, real.train.name) == ("digits:holdout", "digits:validation")
    assert RealImages.of("digits", "digits:all", run).train.name == "digits:all"
    assert RealImages.of("digits", None, tmp_path).train.name == "digits"  # no run: what the holdout was taken from
    assert RealImages.of("digits:holdout", None, tmp_path).train is None
    with pytest.raises(
        ValueError, match="`digits:validation`, on which the run was trained, has no images that it was"
    ):
        RealImages.of(None, None, run)
    own = RealImages.of(None, None, make_run(tmp_path / "b"))
    assert (own.reference.name, own.train.name) == ("digits:holdout", "digits")


def test_a_run_whose_data_is_unknown_needs_both_words(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "config.yaml").write_text("data: {class_path: mine.Images}\n")
    with pytest.raises(ValueError, match="give --reference and --train"):
        RealImages.of("digits", None, run)
    assert RealImages.of("digits", "digits:all", run).train.name == "digits:all"


def test_results_name_what_they_were_measured_with(tmp_path, monkeypatch):
    from sparring.samplers import save_images

    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    save_images(Digits("validation").images(20), tmp_path / "images")
    result = Evaluator(RealImages.of("digits", None, tmp_path), "pixels").folder(tmp_path / "images")
    assert (result.reference, result.train) == ("digits:holdout", "digits")


def test_classes_are_those_of_the_reference_and_judged_by_who_has_seen_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8))
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4)
    net = UNet2DModel(**sizes, **blocks, add_attention=False, num_class_embeds=11)
    generator = Denoiser(net, VP(), "v")
    seen = []
    monkeypatch.setattr(Sampler, "stream", watched(Sampler.stream, seen))
    for trained, judged in ([5, 6], True), ([0, 1], False):
        real = RealImages(Digits("holdout", only=[5, 6]), Digits(only=trained))
        evaluator = Evaluator(real, "classifier")
        result = evaluator.sampler(Sampler(generator), n=20, steps=1, scheduler="ddim", seed=0)
        assert (result.class_accuracy is not None) == judged
        assert result.floor is not None
        assert (result.floor.source == "train") == judged
    assert seen == [[5, 6], [5, 6]]


def watched(stream, seen):
    def with_notes(self, *args, labels=None, **settings):
        seen.append(labels)
        return stream(self, *args, labels=labels, **settings)

    return with_notes


def test_a_result_says_how_the_real_images_look():
    """Digits of other classes, or in a frame, have the same name and number of images."""
    looks = [
        RealImages(Digits("holdout", limit=50, **settings), None).names["reference_looks"]
        for settings in ({}, {}, {"classes": [0, 1]}, {"pad": 4})
    ]
    assert looks[0] == looks[1]
    assert len(set(looks)) == 3
    shape, mean, std = looks[3].split()
    assert shape == "1x16x16"
    images = Digits("holdout", limit=50, pad=4).images()
    assert (float(mean), float(std)) == pytest.approx((float(images.mean()), float(images.std())), abs=1e-3)
