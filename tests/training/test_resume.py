"""Same seed, same run; and a run that was stopped anywhere ends where the uninterrupted one does, bit for bit."""

import json
import signal
import tarfile

import datasets
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from small_runs import METHODS, assert_same_checkpoint, backbone, checkpoint, method, trainer

from sparring.data import Digits, StreamData
from sparring.generators import Denoiser, load_pipeline
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.sadm import SADM
from sparring.process import VP
from sparring.runs import RunFolder
from sparring.runs.checkpoint import steps_in
from sparring.training import Interrupted, Trainer


def stop_after(run: Trainer, steps: int) -> None:
    """Lets a signal arrive during the given step."""
    inner = run.alternate.generator_update

    def with_signal(window, fake):
        if run.step == steps - 1:
            run.stop(signal.SIGTERM)
        return inner(window, fake)

    run.alternate.generator_update = with_signal


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_ends_where_the_uninterrupted_one_does(tmp_path, name):
    """Two stops, one of them between checkpoints and in the middle of a line of the log."""
    settings = {"steps": 7, "checkpoint_every": 3, "log_every": 4, "keep_checkpoints": 9}
    whole = trainer(tmp_path / "whole", name, **settings).fit()
    cut = tmp_path / "cut"
    for resume, stop in ((False, 2), (True, 5)):
        run = trainer(cut, name, **settings)
        stop_after(run, stop)
        with pytest.raises(Interrupted, match=f"SIGTERM after step {stop}") as stopped:
            run.fit(resume=resume)
        assert stopped.value.exit_code == 143
    trainer(cut, name, **settings).fit(resume=True)
    assert_same_checkpoint(whole, cut, 7)
    assert log(whole) == log(cut)
    for file in ("samples/000007.png", "frozen.safetensors"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


def log(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds_per_step"} for line in lines]


def test_same_seed_same_run_and_another_seed_another_run(tmp_path):
    one, same = (trainer(tmp_path / name, "sadm").fit() for name in ("one", "same"))
    other = trainer(tmp_path / "other", "sadm", seed=1).fit()
    assert_same_checkpoint(one, same, 6)
    weights = [checkpoint(run, 6)[0]["generator"]["net.last.weight"] for run in (one, other)]
    assert not torch.equal(*weights)


def test_data_workers_change_nothing_and_may_change_at_resume(tmp_path):
    settings = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 9}
    runs = [trainer(tmp_path / str(n), data_workers=n, **settings).fit() for n in (0, 1, 2)]
    mixed = trainer(tmp_path / "mixed", data_workers=2, **settings)
    stop_after(mixed, 3)
    with pytest.raises(Interrupted):
        mixed.fit()
    trainer(tmp_path / "mixed", data_workers=1, **settings).fit(resume=True)
    for run in [*runs[1:], tmp_path / "mixed"]:
        assert_same_checkpoint(runs[0], run, 6)


def test_a_run_on_shards_goes_on_exactly_where_it_was(tmp_path):
    """Parquet row groups and tar files: stopped twice, within an epoch, and with another number of workers."""
    runs = []
    for kind, workers in (("parquet", (0, 0, 0)), ("parquet", (1, 0, 2)), ("tar", (0, 0, 0)), ("tar", (2, 1, 0))):
        settings = {"data": shards_of_digits(tmp_path, kind), "steps": 7, "checkpoint_every": 3, "log_every": 4}
        folder = tmp_path / f"{kind}{workers[0]}"
        if workers == (0, 0, 0):
            runs.append(trainer(folder, **settings).fit())
            continue
        for resume, stop in ((False, 2), (True, 5)):
            run = trainer(folder, data_workers=workers[resume], **settings)
            stop_after(run, stop)
            with pytest.raises(Interrupted):
                run.fit(resume=resume)
        trainer(folder, data_workers=workers[2], **settings).fit(resume=True)
        assert_same_checkpoint(runs[-1], folder, 7)
    assert_same_checkpoint(*runs, 7)


def shards_of_digits(folder, kind):
    """64 digits in four groups of rows, mixed two groups at a time: an epoch is four steps."""
    path = folder / f"digits.{kind}"
    pictures = [Image.fromarray(image[0].numpy()) for image in (Digits().images(64) * 127.5 + 127.5).byte()]
    if kind == "parquet" and not path.exists():
        datasets.Dataset.from_dict({"image": pictures}).to_parquet(path, batch_size=16)
    if kind == "tar":
        path = folder / "digits*.tar"
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number:02d}.png")
        for group in range(4):
            with tarfile.open(folder / f"digits{group}.tar", "w") as tar:
                for number in range(16 * group, 16 * group + 16):
                    tar.add(folder / f"{number:02d}.png", f"{number:02d}.png")
    return StreamData(str(path), channels=1, shuffle_buffer=32)


def test_resume_from_an_earlier_step_repeats_what_followed(tmp_path):
    settings = {"checkpoint_every": 2, "keep_checkpoints": 9}
    run = trainer(tmp_path / "run", "adt", **settings).fit()
    before = (tmp_path / "run/checkpoints/000006/generator.safetensors").read_bytes()
    lines = log(run)
    again = trainer(tmp_path / "run", "adt", **settings)
    stop_after(again, 5)
    with pytest.raises(Interrupted):
        again.fit(resume_step=4)
    assert steps_in(run / "checkpoints") == [2, 4, 5]
    assert [line["step"] for line in log(run)] == [2, 4]
    trainer(tmp_path / "run", "adt", **settings).fit(resume=True)
    assert (tmp_path / "run/checkpoints/000006/generator.safetensors").read_bytes() == before
    assert log(run) == lines


def test_fewer_steps_than_were_made_are_refused_and_change_nothing(tmp_path):
    run = trainer(tmp_path / "run", steps=4).fit()
    config = (run / "config.yaml").read_text()
    with pytest.raises(ValueError, match="`trainer.steps=2`: the run is at step 4; give more, or an earlier"):
        trainer(tmp_path / "run", steps=2).fit(resume=True)
    assert (run / "config.yaml").read_text() == config
    trainer(tmp_path / "run", steps=5).fit(resume=True)


def test_a_second_program_is_refused_while_one_trains(tmp_path):
    """A second start and a second resume, from inside a step of the first; the first is not disturbed."""
    run = trainer(tmp_path / "run", steps=2)
    inner, refused = run.train_step, []

    def meanwhile(window):
        for resume in (False, True):
            with pytest.raises(ValueError, match="already holds a run|another program is training there") as error:
                trainer(tmp_path / "run", steps=2).fit(resume=resume)
            refused.append(str(error.value))
        inner(window)

    run.train_step = meanwhile
    run.fit()
    assert any("another program is training there: wait for it" in text for text in refused)
    trainer(tmp_path / "run", steps=3).fit(resume=True)  # free again
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/.starting").touch()
    first = trainer(tmp_path / "killed")
    first.folder.create()
    with pytest.raises(ValueError, match="another program is training there"):
        trainer(tmp_path / "killed").fit()


def test_resume_refuses_what_would_not_be_the_same_run(tmp_path):
    trainer(tmp_path / "run").fit()
    for settings, message in (
        ({"seed": 3}, "`seed=3`: the run was started with 0"),
        ({"batch_size": 8}, "`batch_size=8`: the run was started with 16"),
        ({"method": method("adt")}, "frozen.safetensors belongs to another method"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path / "run", **settings).fit(resume=True)
    with pytest.raises(ValueError, match="has no checkpoint of step 4; it has \\[6\\]"):
        trainer(tmp_path / "run").fit(resume_step=4)
    with pytest.raises(ValueError, match="is not a run of sparring"):
        trainer(tmp_path / "none").fit(resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        trainer(tmp_path / "run").fit()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="already holds other files"):
        trainer(tmp_path / "other").fit()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_a_finished_run_resumes_to_nothing_and_can_be_made_longer(tmp_path):
    trainer(tmp_path / "run", steps=4).fit()
    trainer(tmp_path / "run", steps=4).fit(resume=True)
    trainer(tmp_path / "run", steps=6).fit(resume=True)
    whole = trainer(tmp_path / "whole", steps=6).fit()
    assert_same_checkpoint(whole, tmp_path / "run", 6)


def test_a_start_that_was_killed_is_started_again(tmp_path, monkeypatch):
    run = trainer(tmp_path / "run", "ddo")
    monkeypatch.setattr(run.folder, "write_config", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    with pytest.raises(ValueError, match="is not a run of sparring"):
        trainer(tmp_path / "run", "ddo").fit(resume=True)
    trainer(tmp_path / "run", "ddo").fit()
    whole = trainer(tmp_path / "whole", "ddo").fit()
    assert_same_checkpoint(whole, tmp_path / "run", 6)


def test_a_killed_start_leaves_nothing_of_its_settings(tmp_path, monkeypatch):
    def diffusion(schedule):
        blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [4]}
        net = UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=2, add_attention=False, **blocks)
        return Diffusion(Denoiser(net, VP(schedule=schedule), "v"))

    first = trainer(tmp_path / "run", method=diffusion("cosine"))
    monkeypatch.setattr(first.publisher, "draw", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    assert (tmp_path / "run/pipeline/model_index.json").is_file()
    trainer(tmp_path / "run", method=diffusion("linear")).fit()
    assert load_pipeline(tmp_path / "run")[1].config.beta_schedule == "linear"


def test_without_git_no_revision_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RunFolder(trainer(tmp_path / "run").fit()).read_config()["made_with"]["git"] is None


def test_a_backbone_trained_at_the_start_is_resumed_and_not_trained_again(tmp_path, monkeypatch):
    def sadm():
        from sparring.discriminators import StructureDiscriminator

        encoder = backbone(pretrain="classifier", num_classes=10, epochs=1)
        plain = method("diffusion").generator
        return SADM(Denoiser(plain.net, plain.process, "v"), StructureDiscriminator(encoder=encoder))

    whole = trainer(tmp_path / "whole", method=sadm()).fit()
    run = trainer(tmp_path / "run", method=sadm())
    stop_after(run, 3)
    with pytest.raises(Interrupted):
        run.fit()
    monkeypatch.setattr(SADM, "prepare", lambda *_: pytest.fail("prepared twice"))
    trainer(tmp_path / "run", method=sadm(), data=Digits()).fit(resume=True)
    assert_same_checkpoint(whole, tmp_path / "run", 6)
