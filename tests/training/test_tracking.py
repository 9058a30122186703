"""Trackers: what they are told of a run, where their records go, and runs without one."""

import os

import accelerate.accelerator
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from small_runs import trainer

from sparring.cli.main import main
from sparring.training.tracking import flat


class Recorder(GeneralTracker):
    """Stands for the class by which accelerate uses wandb, and keeps what it is given."""

    name = "wandb"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, run_name, **settings):
        super().__init__()
        self.project, self.settings, self.lines, self.pictures, self.finished = run_name, settings, [], [], False

    def start(self):
        if os.environ.get("NO_ACCOUNT"):
            raise RuntimeError("api_key not configured\n(no-tty)")
        self.run = self

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.lines.append((step, values))

    def log_images(self, values, step=None, **_):
        self.pictures.append((step, {name: [image.size for image in images] for name, images in values.items()}))

    def finish(self):
        self.run.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """Wandb as accelerate would find it, without its account."""
    for variable in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(accelerate.accelerator, "filter_trackers", lambda log_with, *_: [log_with] if log_with else [])
    return monkeypatch


def test_a_tracker_knows_project_name_settings_numbers_and_pictures(tmp_path, wandb):
    run = trainer(tmp_path / "mine", tracker="wandb", steps=4, sample_every=2, log_every=2)
    run.fit()
    (kept,) = run.accelerator.trackers
    assert (kept.project, kept.settings) == ("sparring", {"name": "mine", "dir": str(tmp_path / "mine")})
    assert kept.config["trainer.steps"] == 4
    assert kept.config["method.class_path"] == "sparring.methods.denoising.diffusion.Diffusion"
    assert kept.config["data.class_path"].endswith("Digits")
    assert [step for step, _ in kept.lines] == [2, 4]
    assert "generator/diffusion" in kept.lines[0][1]
    assert [step for step, _ in kept.pictures] == [0, 2, 4]
    assert list(kept.pictures[0][1]) == ["samples"]
    assert kept.finished


def test_the_environment_names_the_project_and_the_run(tmp_path, wandb):
    wandb.setenv("WANDB_PROJECT", "digits")
    wandb.setenv("WANDB_NAME", "third")
    run = trainer(tmp_path / "mine", tracker="wandb", steps=1)
    run.fit()
    (kept,) = run.accelerator.trackers
    assert (kept.project, kept.settings) == ("digits", {"dir": str(tmp_path / "mine")})


def test_a_tracker_that_cannot_start_is_one_line_before_anything_is_trained(tmp_path, wandb):
    wandb.setenv("NO_ACCOUNT", "1")
    run = trainer(tmp_path / "mine", tracker="wandb", steps=1)
    with pytest.raises(
        ValueError, match=r"`tracker=wandb` cannot start \(api_key not configured \(no-tty\)\): .* none"
    ):
        run.fit()
    assert not (tmp_path / "mine/config.yaml").exists()
    trainer(tmp_path / "mine", tracker="none", steps=1).fit()  # as it advises, in the same folder
    assert (tmp_path / "mine/config.yaml").exists()


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_no_tracker(word, tmp_path):
    flags = ["--trainer.steps=1", "--trainer.num_samples=1", f"--trainer.tracker={word}"]
    assert main(["fit", "diffusion", "--on", "tiny", "--out", str(tmp_path / "run"), *flags]) == 0
    assert not (tmp_path / "run/tensorboard").exists()


def test_tensorboard_holds_numbers_settings_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(tmp_path / "run", tracker="tensorboard", steps=4, sample_every=2, log_every=2)
    folder = run.fit() / "tensorboard"
    found = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in found.Scalars("generator/diffusion")] == [2, 4]
    assert [event.step for event in found.Images("samples")] == [0, 2, 4]
    (settings,) = folder.rglob("hparams.yml")
    assert "trainer.steps: 4" in settings.read_text()
    resumed = trainer(tmp_path / "run", tracker="tensorboard", steps=6, sample_every=2, log_every=2)
    resumed.fit(resume=True)
    found = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert sorted(event.step for event in found.Images("samples")) == [0, 2, 4, 6]


def test_settings_are_flat_and_plain():
    config = {"a": {"b": [1, 2], "c": {"d": 0.5, "e": None}}, "f": True, "g": "word"}
    assert flat(config) == {"a.b": "[1, 2]", "a.c.d": 0.5, "a.c.e": "None", "f": True, "g": "word"}


def test_samples_go_to_a_tracker_with_how_they_were_made(tmp_path, wandb, capsys):
    run = str(trainer(tmp_path / "mine", tracker=None, steps=1).fit())
    records = []
    wandb.setattr(Recorder, "start", lambda self: records.append(self) or setattr(self, "run", self))
    told = ["sample", run, "--n", "4", "--steps", "2", "--allow", "small_runs", "--tracker", "wandb", "--out"]
    assert main([*told, str(tmp_path / "grid.png"), "--seed", "5"]) == 0
    assert main([*told, str(tmp_path / "sheet.png"), "--sweep"]) == 0
    grid, sheet = records
    assert (grid.project, grid.settings) == ("sparring", {"name": "mine", "dir": str(tmp_path)})
    assert (grid.config["seed"], grid.config["steps"], grid.config["n"]) == (5, "[2]", 4)
    assert [(step, list(images)) for step, images in grid.pictures] == [(0, ["grid.png"])]
    assert grid.lines[0][1]["nfe"] == 2
    assert [list(images) for _, images in sheet.pictures] == [["sheet.png"]]
    assert grid.finished
    assert sheet.finished
    with Image.open(tmp_path / "grid.png") as picture:
        assert grid.pictures[0][1]["grid.png"] == [picture.size]
    wandb.setattr(accelerate.accelerator, "filter_trackers", lambda *_: [])
    assert main([*told, str(tmp_path / "other.png")]) == 2
    assert "`tracker=wandb` is not installed: install it, or choose another, or none" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()


def test_samples_in_tensorboard_lie_beside_the_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = str(trainer(tmp_path / "run", tracker=None, steps=1).fit())
    for name in ("a.png", "b"):
        told = ["sample", run, "--n", "4", "--steps", "2", "--allow", "small_runs", "--tracker", "tensorboard"]
        assert main([*told, "--out", str(tmp_path / "drawn" / name)]) == 0
    found = EventAccumulator(str(tmp_path / "drawn/tensorboard"), size_guidance={"images": 0}).Reload()
    assert {*found.Tags()["images"]} == {"a.png", "b"}
    assert not (tmp_path / "run/tensorboard").exists()
