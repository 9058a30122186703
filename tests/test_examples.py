"""The examples run: as a program, and as a recipe that names classes of the user's own module."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.cli.main import main
from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser
from sparring.process import VP, Uniform

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def own_method(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("own_method")


def log_of(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_the_own_method_trains_and_ships_a_pipeline(own_method, tmp_path):
    run = own_method.main(steps=3, out=tmp_path / "run")
    line = log_of(run)
    assert line["step"] == 3
    names = {"generator/diffusion", "generator/adversarial", "discriminator/adversarial", "discriminator/r1"}
    assert names <= line.keys()
    assert line["skipped"] == 0
    pipe = DiffusionPipeline.from_pretrained(run / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)


def test_the_own_recipe_runs_where_its_module_is_allowed(own_method, tmp_path, capsys):
    recipe, run = str(EXAMPLES / "own_method.yaml"), tmp_path / "run"
    flags = ["--out", str(run), "--trainer.steps=2", "--trainer.batch_size=16", "--trainer.num_samples=1"]
    flags += ["--trainer.tracker=null", "--method.weight=0.2"]
    assert main(["fit", recipe, *flags]) == 2
    assert "--allow own_method" in capsys.readouterr().err
    assert not run.exists()
    assert main(["fit", recipe, "--allow", "own_method", *flags]) == 0
    assert log_of(run)["step"] == 2
    assert (run / "checkpoints" / "000002" / "discriminator.safetensors").is_file()
    assert main(["fit", recipe, "--out", str(run), "--resume", "--allow", "own_method", "--trainer.steps=3"]) == 0
    assert log_of(run)["step"] == 3


def test_its_equations_are_what_it_computes(own_method):
    torch.manual_seed(0)
    net = own_method.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=[8],
        norm_num_groups=4,
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
        add_attention=False,
    )
    judge = own_method.PatchDiscriminator()
    method = own_method.PatchMethod(Denoiser(net, VP(), "v"), judge, weight=0.5, r1_gamma=0.3, times=Uniform())
    batch = Batch(Digits("validation").images(4), None, Draws(0))
    fake = method.rollout(batch)
    trust = VP().alpha(fake.noised.t) ** 2
    gap = judge(batch.images) - judge(fake.prediction.x0)
    assert gap.shape == (4, 1, 4, 4)
    losses = method.generator_loss(batch, fake)
    expected = 0.5 * (trust * (1 + gap.exp()).log().mean((1, 2, 3))).mean()
    torch.testing.assert_close(losses["adversarial"], expected)
    losses = method.discriminator_loss(batch, fake)
    torch.testing.assert_close(losses["adversarial"], (trust * (1 + (-gap).exp()).log().mean((1, 2, 3))).mean())
    losses["adversarial"].backward()
    assert all(p.grad is None for p in net.parameters())


def test_the_notebook_runs_cell_by_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
    known: dict = {}
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), known)
        if "STEPS" in cell["source"][-1]:
            known |= {"STEPS": 3, "N": 32}
    assert log_of(tmp_path / "runs/quickstart")["step"] == 3
    assert known["after"].shape == (32, 1, 8, 8)
    assert not known["after"].equal(known["before"])
