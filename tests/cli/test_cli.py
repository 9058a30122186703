"""The command line as a user types it: what works, and one line with exit code 2 for each likely mistake."""

import json
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sparring.cli.main import main
from sparring.runs.folder import provenance

TINY = {
    "data": {"class_path": "sparring.data.Digits"},
    "denoiser": {
        "net": {
            "class_path": "diffusers.UNet2DModel",
            "init_args": {
                "sample_size": 8,
                "in_channels": 1,
                "out_channels": 1,
                "layers_per_block": 1,
                "block_out_channels": [8, 8],
                "norm_num_groups": 4,
                "down_block_types": ["DownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "UpBlock2D"],
                "add_attention": False,
            },
        },
        "process": {"class_path": "sparring.process.VP", "init_args": {"schedule": "cosine"}},
        "prediction": "v",
    },
    "method": {"class_path": "sparring.methods.denoising.diffusion.Diffusion"},
    "trainer": {"steps": 3, "batch_size": 8, "num_samples": 4, "tracker": None},
}


OPPONENT_NET = "--method.discriminator.backbone"
OPPONENT = [
    "--method.discriminator=sparring.discriminators.ProjectedDiscriminator",
    f"{OPPONENT_NET}=sparring.backbones.SmallConvNet",
    f"{OPPONENT_NET}.in_channels=1",
    f"{OPPONENT_NET}.num_classes=10",
    f"{OPPONENT_NET}.pretrain=none",
]


def classes(n):
    return [f"--method.discriminator.num_classes={n}"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a tiny recipe and a run of it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["fit", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def fails(capsys, arguments: list[str]) -> str:
    """Runs a command that must fail; returns its one line."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert len(error) < 500
    assert error.startswith("sparring: error: ")
    return error


def test_help_and_recipes_answer_without_torch():
    started = time.monotonic()
    for arguments in (["--help"], ["fit", "--help"], ["recipes"]):
        code = f"import sys; from sparring.cli.main import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
        code += "assert 'torch' not in sys.modules, 'torch was imported'"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "digits-dit" in done.stdout or "usage: sparring" in done.stdout
    assert time.monotonic() - started < 30  # three interpreters; a second each on a quiet machine


def test_python_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "sparring", "recipes"], capture_output=True, text=True, check=True)
    assert "sadm " in done.stdout


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == version("sparring")


def test_the_command_that_a_run_records_can_be_given_again(monkeypatch):
    """Also of `python -m sparring`, whose program is called `__main__.py`."""
    monkeypatch.setattr(sys, "argv", ["/some/where/__main__.py", "fit", "diffusion", "--out", "runs/a b"])
    assert provenance()["command"] == "sparring fit diffusion --out 'runs/a b'"


def test_run_folder_holds_what_scripts_rely_on(workplace):
    run = workplace / "run"
    for name in ("config.yaml", "metrics.jsonl", "report.html", "pipeline/model_index.json", "samples/000003.png"):
        assert (run / name).is_file(), name
    checkpoint = run / "checkpoints" / "000003"
    assert {"generator.safetensors", "ema.safetensors", "state.json"} <= {p.name for p in checkpoint.iterdir()}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["steps"] == 3
    assert config["made_with"]["versions"]["torch"]
    assert json.loads((checkpoint / "state.json").read_text())["network_calls"] == 3


@pytest.mark.slow
def test_sampling_a_run_equals_its_pipeline_in_a_process_without_sparring(workplace):
    run, out = workplace / "run", workplace / "images"
    assert main(["sample", str(run), "--n", "3", "--steps", "4", "--seed", "7", "--out", str(out)]) == 0
    code = f"""
import sys, torch, numpy as np
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(run / "pipeline")!r})
pipe.set_progress_bar_config(disable=True)
noise = torch.Generator().manual_seed(7)
images = pipe(batch_size=3, num_inference_steps=4, generator=noise, output_type="np").images
assert "sparring" not in sys.modules
np.save({str(workplace / "theirs.npy")!r}, images)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    theirs = np.load(workplace / "theirs.npy")[..., 0]
    ours = np.stack([np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))])
    assert np.abs(theirs * 255 - ours).max() <= 0.51  # ours are rounded to 8 bits


def test_animation_shows_every_step(workplace):
    out = workplace / "path.gif"
    assert main(["sample", str(workplace / "run"), "--n", "4", "--steps", "5", "--out", str(out)]) == 0
    assert Image.open(out).n_frames == 6  # noise and five steps


def test_tuning_from_a_run_and_from_its_pipeline(workplace):
    for i, source in enumerate((workplace / "run", workplace / "run" / "pipeline")):
        tuned = workplace / f"tuned{i}"
        flags = ["--trainer.steps=2", "--trainer.batch_size=8", "--trainer.num_samples=4", "--trainer.tracker=null"]
        flags += ["--method.discriminator.encoder.pretrain=none"]
        assert main(["fit", "sadm", "--on", "digits", "--init", str(source), "--out", str(tuned), *flags]) == 0
        assert (tuned / "checkpoints" / "000002" / "discriminator.safetensors").is_file()


def test_resume_goes_on_to_the_new_end(workplace, capsys):
    out = workplace / "resumed"
    recipe = str(workplace / "tiny.yaml")
    assert main(["fit", recipe, "--out", str(out)]) == 0
    assert main(["fit", recipe, "--out", str(out), "--resume", "--trainer.steps=5", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert row["step"] == 5


def test_a_student_is_sampled_and_measured_in_the_calls_that_it_is_trained_for(workplace, tmp_path, capsys):
    student, base = str(tmp_path / "student"), shutil.copytree(workplace / "run", tmp_path / "base").as_posix()
    flags = ["--trainer.steps", "1", "--method.num_steps", "2"]
    assert main(["fit", "add", "--on", "tiny", "--init", base, "--out", student, *flags]) == 0
    for run, expected in ((student, ("lcm", 2)), (base, ("ddim", 10))):
        capsys.readouterr()
        assert main(["evaluate", run, "--n", "10", "--features", "pixels", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["scheduler"], result["nfe"]) == expected
        assert main(["sample", run, "--n", "2", "--out", str(tmp_path / "x.png")]) == 0
        assert f"{expected[1]} network calls" in capsys.readouterr().out


def test_evaluate_and_compare_print_what_scripts_rely_on(workplace, capsys):
    run = str(workplace / "run")
    assert main(["evaluate", run, "--n", "20", "--steps", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"nfe", "scheduler", "frechet", "kernel", "precision", "recall", "n", "features", "floor"} <= set(result)
    assert (result["nfe"], result["scheduler"], result["n"]) == (2, "ddim", 20)
    assert (result["reference"], result["train"]) == ("digits:holdout", "digits")
    assert "ema" not in result  # nobody knows it of a foreign pipeline
    assert result["floor"]["frechet"] < result["frechet"]
    page = workplace / "compare.html"
    assert main(["compare", run, "--json", "--out", str(page)]) == 0
    row = json.loads(capsys.readouterr().out)["runs"][0]
    keys = {"name", "method", "seed", "step", "network_calls", "seconds_per_step", "results"}
    assert keys <= set(row)
    assert row["results"][0]["frechet"] == result["frechet"]
    assert (row["folder"], row["results"][0]["step"]) == (run, row["step"])
    assert page.stat().st_size > 10_000
    assert main(["compare", run]) == 0
    shown = capsys.readouterr().out
    assert "Frechet distance" in shown
    assert "Not evaluated yet" not in shown


def test_compare_refuses_damaged_results_and_runs_that_stand_for_each_other(workplace, capsys, tmp_path):
    run, copy = workplace / "run", tmp_path / "run"
    shutil.copytree(run, copy)
    error = fails(capsys, ["compare", str(run), str(copy)])
    assert f"{run} and {copy} are both seed" in error
    (copy / "results.json").write_text("{}")
    assert "results.json is not a list of results" in fails(capsys, ["compare", str(copy)])
    (copy / "results.json").unlink()
    assert main(["compare", str(copy)]) == 0
    assert "Not evaluated yet, so without numbers" in capsys.readouterr().out
    (copy / "checkpoints" / "000003" / "state.json").write_text("3")
    assert "000003 is damaged" in fails(capsys, ["compare", str(copy)])


def test_evaluate_a_folder_of_images(workplace, capsys, tmp_path):
    from sparring.data import Digits
    from sparring.samplers import save_images

    save_images(Digits("validation").images(60), tmp_path / "images")
    assert main(["evaluate", str(tmp_path / "images"), "--reference", "digits", "--features", "pixels", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 60
    assert result["precision"] > 0.7  # they are real digits


def test_own_recipe_class_needs_allow(workplace, capsys, tmp_path):
    recipe = tmp_path / "stranger.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "method": {"class_path": "subprocess.Popen"}}))
    assert "add --allow subprocess" in fails(capsys, ["fit", str(recipe), "--out", str(tmp_path / "x")])
    recipe.write_text(yaml.safe_dump({**TINY, "method": "subprocess.Popen"}))
    assert "add --allow subprocess" in fails(capsys, ["fit", str(recipe), "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "sadmm"], ["did you mean sadm"]),
        (["fit", "nowhere.yaml"], ["nowhere.yaml does not exist"]),
        (["fit", "adt", "--on", "digits", "--out", "{new}"], ["--init RUN"]),
        (["fit", "sadm-digits"], ["did you mean sadm --on digits"]),
        (["fit", "sadm", "--on", "digit"], ["did you mean digits"]),
        (["fit", "diffusion", "--out", "{new}"], ["leaves the data to you", "--on"]),
        (["fit", "diffusion", "--on", "fashion16", "--out", "{new}"], ["give them with --data"]),
        (["fit", "{tiny}", "--on", "digits", "--out", "{new}"], ["names its own data"]),
        (["fit", "sadm", "--on", "digits", "--init", "{new}", "--out", "{new}"], ["does not exist"]),
        (
            ["fit", "sadm", "--on", "digits", "--init", "{here}", "--out", "{new}"],
            ["neither a run", "nor a diffusers pipeline"],
        ),
        (["fit", "{tiny}", "--out", "{run}"], ["already holds a run", "--resume"]),
        (["fit", "{tiny}", "--out", "{new}", "--resume"], ["nothing to resume"]),
        (["fit", "{tiny}", "--out", "{run}", "--resume_step", "2"], ["no checkpoint of step 2"]),
        (["fit", "{tiny}", "--out", "{new}", "--trainer.stepz=3"], ["--trainer.stepz"]),
        (["fit", "{tiny}", "--out", "{new}", "--trainer.steps=many"], ["trainer.steps", "int", "many"]),
        (["fit", "{tiny}", "--out", "{new}", "--trainer.steps=0"], ["`steps=0` must be at least 1"]),
        (["fit", "{tiny}", "--out", "{new}", "--trainer.batch_size=0"], ["`batch_size=0`"]),
        (["fit", "{tiny}", "--out", "{new}", "--method=Foo"], ["Foo"]),
        (["fit", "{tiny}", "--out", "{new}", "--data", "{here}/none"], ["no data set"]),
        (["fit", "{tiny}", "--out", "{new}", "--data.split=test"], ["test", "train"]),
        (["fit", "{tiny}", "--out", "{new}", "--denoiser.net.sample_size=16"], ["(1, 16, 16)", "(1, 8, 8)"]),
        (
            ["fit", "sadm", "--on", "digits", "--init", "{run}", "--out", "{new}", "--trainer.batch_size=1"],
            ["needs 2 or more"],
        ),
        (
            ["fit", "adt", "--on", "digits", "--init", "{run}", "--out", "{new}", "--method.num_grad_steps=9"],
            ["error: `num_grad_steps=9` must lie between 1 and `num_steps=5`"],
        ),
        (
            ["fit", "d2o", "--on", "digits", "--init", "{run}", "--out", "{new}", *classes(10)],
            ["the generator takes no classes and ProjectedDiscriminator does"],
        ),
        (
            ["fit", "meanflow", "--on", "digits-classes", "--out", "{new}", *OPPONENT, *classes(3)],
            ["`num_classes=3` of ProjectedDiscriminator: the images have 10 classes"],
        ),
        (
            ["fit", "meanflow", "--on", "digits-classes", "--out", "{new}", *OPPONENT],
            ["the generator is class-conditional and ProjectedDiscriminator takes no classes"],
        ),
        (
            ["fit", "meanflow", "--on", "tiny", "--out", "{new}", *OPPONENT, f"{OPPONENT_NET}.in_channels=3"],
            ["`in_channels=3` of SmallConvNet, but the images have 1"],  # only the first step shows it
        ),
        (["evaluate", "{run}", "--guidance", "1", "2"], ["`guidance=2.0`: UNet2DModel takes neither classes"]),
        (["sample", "{run}", "--n", "0"], ["`n=0` must be at least 1"]),
        (["sample", "{run}", "--scheduler", "magic"], ["magic", "ddim"]),
        (["sample", "{new}"], ["does not exist"]),
        (["sample", "{run}", "--out", "{run}"], ["already holds files"]),
        (["evaluate", "{new}"], ["does not exist"]),
        (["evaluate", "{run}", "--features", "magic"], ["features=magic"]),
        (["compare", "{here}"], ["not a run of sparring"]),
        (["compare", "{run}", "{new}.v2"], ["new.v2 does not exist"]),
        (["sample", "{run}", "--colour", "red"], ["unknown argument --colour"]),
        (["sample", "{run}", "--seed", "abc"], ["--seed: invalid int value: 'abc'", "see `sparring sample --help`"]),
        (["study", "smoke", "--out"], ["--out: expected one argument"]),
        (["evalute", "{run}"], ["'evalute'", "evaluate"]),
        ([], ["COMMAND", "see `sparring --help`"]),
        (["fit", "--out", "{run}", "--resume", "--trainer.steps", "9"], ["fit METHOD --trainer.steps VALUE"]),
        (["fit", "diffusion", "--on", "digits", "--trainer.steps"], ["`--trainer.steps` has no value"]),
        (["fit", "diffusion", "digits"], ["unknown argument digits: a setting is named with --on"]),
        (["sample", "{run}", "--sheduler", "ddim"], ["unknown argument --sheduler: did you mean --scheduler?"]),
        (["demo", "--quik"], ["did you mean --quick?"]),
    ],
)
def test_a_mistake_gives_one_line_and_loses_nothing(workplace, capsys, tmp_path, arguments, words):
    before = (workplace / "run" / "config.yaml").read_bytes()
    places = {"new": tmp_path / "new", "run": workplace / "run", "tiny": workplace / "tiny.yaml", "here": tmp_path}
    capsys.readouterr()
    assert main([argument.format(**places) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if not line.startswith("training: step 0 of")] == lines[-1:]
    error = lines[-1]
    assert error.startswith("sparring: error: ")
    assert len(error) < 500
    for word in words:
        assert word in error
    assert not (tmp_path / "new").exists()
    assert (workplace / "run" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "already holds files"),
        ("config.yaml", "already holds files"),
        ("a.bmp", "the ending is one of"),
        ("samples.png", "is a folder"),
    ]
    + [
        ("a.bmp", "the ending is one of"),
        ("config.yaml/x.png", "cannot be written"),
        ("config.yaml/x/y", "cannot be written"),
    ],
)
def test_a_place_for_samples_is_checked_before_they_are_drawn(workplace, capsys, monkeypatch, tmp_path, out, words):
    monkeypatch.setattr("sparring.samplers.Sampler.__call__", lambda *_, **__: pytest.fail("was sampled"))
    (tmp_path / "samples.png").mkdir()
    (tmp_path / "config.yaml").touch()
    assert words in fails(capsys, ["sample", str(workplace / "run"), "--out", str(tmp_path / out)])


def test_what_a_data_set_refuses_is_told_in_its_own_words(workplace, capsys, tmp_path):
    error = fails(capsys, ["fit", str(workplace / "tiny.yaml"), "--out", str(tmp_path / "x"), "--data", str(tmp_path)])
    assert error.strip().startswith(f"sparring: error: `path={tmp_path}` holds no images: looked for .")
    assert "subtypes" not in error


def test_labels_missing_for_a_conditional_network(workplace, capsys, tmp_path):
    recipe = {**TINY, "denoiser": json.loads(json.dumps(TINY["denoiser"]))}
    recipe["denoiser"]["net"]["init_args"]["num_class_embeds"] = 10
    recipe["data"] = {"class_path": "sparring.data.ImageFolder", "init_args": {"path": str(workplace / "grey")}}
    from sparring.data import Digits
    from sparring.samplers import save_images

    if not (workplace / "grey").exists():
        save_images(Digits().images(20), workplace / "grey")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert "labels" in fails(capsys, ["fit", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "x")])


def test_corrupt_checkpoint_names_the_one_before(workplace, capsys):
    out, recipe = workplace / "damaged", str(workplace / "tiny.yaml")
    assert main(["fit", recipe, "--out", str(out), "--trainer.checkpoint_every=1"]) == 0
    weights = out / "checkpoints" / "000003" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    error = fails(capsys, ["fit", recipe, "--out", str(out), "--resume"])
    assert "damaged" in error
    assert "--resume_step 2" in error
    assert main(["fit", recipe, "--out", str(out), "--resume_step", "2"]) == 0
