"""Seeds of single images, what a PNG says of itself, contact sheets, sweeps with their curves, what a sample costs."""

import json
import re

import numpy as np
import pytest
import torch
from cases import pair
from PIL import Image

from sparring.cli.main import main
from sparring.generators.loading import load_denoiser
from sparring.recipes.compose import baseline_of
from sparring.report.page import write_run_report
from sparring.runs.results import read_results
from sparring.samplers import Sampler
from sparring.samplers.guidance.autoguidance import Autoguidance

BASELINE = str(baseline_of("digits-vp"))


def text_of(file):
    with Image.open(file) as picture:
        return json.loads(picture.text["sparring"])


# -- seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "lcm"])
def test_an_image_of_its_own_seed_is_the_same_whatever_stands_beside_it(scheduler):
    denoiser = pair(mean=0.0, variance=0.05)  # not clamped
    settings = dict(scheduler=scheduler, labels=[0])
    several = denoiser.sample(5, 4, seed=[7, 3, 9, 3, 1], batch_size=2, **settings)
    single = denoiser.sample(1, 4, seed=[9], **settings)
    torch.testing.assert_close(several[2:3], single, rtol=0, atol=1e-12)
    assert torch.equal(several[1], several[3])
    torch.testing.assert_close(denoiser.sample(1, 4, seed=9, **settings), single, rtol=0, atol=1e-12)
    assert not torch.equal(several[0], several[1])


def test_as_many_seeds_as_images():
    with pytest.raises(ValueError, match="`seed`: 2 seeds for `n=3` images: give one of them all, or one each"):
        pair().sample(3, 1, seed=[1, 2])


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_png_says_how_it_was_made(tmp_path):
    base = ["sample", BASELINE, "--steps", "2", "--scheduler", "dpm"]
    assert main([*base, "--seed", "5", "--n", "3", "--out", str(tmp_path / "grid.png")]) == 0
    found = text_of(tmp_path / "grid.png")
    assert (found["source"], found["seed"], found["steps"], found["nfe"]) == (BASELINE, 5, 2, 2)
    assert found["scheduler"] == "dpm"
    assert main([*base, "--seed", "5", "6", "--out", str(tmp_path / "each")]) == 0
    files = sorted((tmp_path / "each").iterdir())
    assert [(text_of(file)["image"], text_of(file)["seed"]) for file in files] == [(0, 5), (1, 6)]
    sampler = Sampler(BASELINE)
    (alone,) = sampler(1, 2, scheduler="dpm", seed=[6]).images
    with Image.open(files[1]) as picture:
        pixels = torch.tensor(list(picture.getdata())).view(8, 8)
    assert torch.equal(pixels, ((alone[0] + 1) * 127.5).round().long())


@pytest.mark.parametrize("ending", ["grid.png", "folder"])
def test_a_png_holds_the_classes_of_its_images_so_that_one_can_be_drawn_again(ending, tmp_path, capsys):
    """Without --labels classes are drawn in turn: an image by itself would be of the first."""
    run, several, one = tmp_path / "run", tmp_path / ending, tmp_path / "one.png"
    words = [
        "--on",
        "digits-classes",
        "--trainer.steps",
        "1",
        "--trainer.num_samples",
        "1",
        "--trainer.tracker",
        "none",
    ]
    assert main(["fit", "diffusion", *words, "--out", str(run)]) == 0
    sample = ["sample", str(run), "--steps", "2", "--scale", "1"]
    assert main([*sample, "--seed", "5", "6", "7", "--out", str(several)]) == 0
    file = several if ending.endswith("png") else sorted(several.iterdir())[2]
    label = text_of(file)["label"]
    assert label == ([0, 1, 2] if ending.endswith("png") else 2)
    assert main([*sample, "--seed", "7", "--n", "1", "--labels", "2", "--out", str(one)]) == 0
    with Image.open(one) as alone, Image.open(file) as among:
        mine, theirs = np.array(alone)[1:9, 1:9], np.array(among)
    assert any(
        np.array_equal(mine, theirs[y : y + 8, x : x + 8])
        for y in range(theirs.shape[0] - 7)
        for x in range(theirs.shape[1] - 7)
    )


def test_of_one_there_is_no_plural(tmp_path, capsys):
    out, one = tmp_path / "one.png", ["sample", BASELINE, "--steps", "1", "--n", "1", "--scheduler", "ddim"]
    assert main([*one, "--sweep", "--out", str(out)]) == 0
    assert f"a contact sheet of 1 sampler, 1 image from the same latents, as {out}" in capsys.readouterr().out
    assert main([*one, "--out", str(out)]) == 0
    assert f"a grid of 1 image as {out} (ddim, 1 network call, " in capsys.readouterr().out


def test_a_contact_sheet_has_a_cell_for_each_sampler(tmp_path, capsys):
    weak, out = tmp_path / "weak", tmp_path / "sheet.png"
    denoiser = load_denoiser(BASELINE)
    with torch.no_grad():
        next(denoiser.net.parameters()).mul_(0.9)
    denoiser.save(weak)
    words = ["--sweep", "--steps", "1", "2", "--scheduler", "ddim", "euler", "--n", "2", "--with", "autoguidance"]
    assert main(["sample", BASELINE, *words, "--with.weak", str(weak), "--out", str(out)]) == 0
    assert "a contact sheet of 4 samplers, 2 images each" in capsys.readouterr().out
    cells = text_of(out)["cells"]
    assert [(cell["steps"], cell["nfe"], cell["calls"]) for cell in cells] == [(1, 1, 2), (2, 2, 4)] * 2
    assert [cell["scheduler"].partition("+")[0] for cell in cells] == ["ddim", "ddim", "euler", "euler"]
    with Image.open(out) as sheet:
        assert sheet.width > 2 * 2 * 8
        assert sheet.convert("L").getextrema() == (0, 255)


# -- costs and curves --------------------------------------------------------------------------------------------------


def test_what_a_sample_costs_is_counted():
    sampler = Sampler(pair(), device="cpu")
    weak = Autoguidance(pair(variance=0.5))
    assert sampler(6, 4, labels=[0]).calls == 4
    assert sampler(6, 4, labels=[0], guidance=2.0, batch_size=4).calls == 8
    assert sampler(6, 4, labels=[0], using=[weak]).calls == 8
    assert sampler(6, 4, labels=[0], guidance=2.0, using=[weak]).calls == 12  # the weak model lies outside


def test_a_sweep_over_guidance_draws_its_curves(tmp_path, capsys):
    steps = ["--trainer.steps=2", "--trainer.tracker=null", "--trainer.num_samples=1", "--trainer.batch_size=8"]
    small = ["--denoiser.net.block_out_channels=[8,8]", "--denoiser.net.norm_num_groups=4"]
    run = tmp_path / "run"
    assert main(["fit", "diffusion", "--on", "digits-classes", "--out", str(run), *steps, *small]) == 0
    words = ["--sweep", "--steps", "1", "2", "--scheduler", "ddim", "--n", "20", "--features", "pixels"]
    assert main(["evaluate", str(run), *words, "--guidance", "1"]) == 0
    assert "calls" not in capsys.readouterr().out
    assert "Calls an\N{NO-BREAK SPACE}image" not in write_run_report(run).read_text()  # as many as the NFE
    assert main(["evaluate", str(run), *words]) == 0
    said = capsys.readouterr().out
    assert re.search(r"ddim-w4 2\W+0\W+4\W", said)  # seed, calls
    assert re.search(r"ddim 2\W+0\W+2\W", said)
    assert said.splitlines()[-1] == f"page: {run / 'report.html'}"
    results = read_results(run)
    assert [(one.scheduler, one.nfe, one.guidance, one.calls) for one in results] == [
        ("ddim", 1, 1.0, 1.0),
        ("ddim-w2", 1, 2.0, 2.0),
        ("ddim-w4", 1, 4.0, 2.0),
        ("ddim", 2, 1.0, 2.0),
        ("ddim-w2", 2, 2.0, 4.0),
        ("ddim-w4", 2, 4.0, 4.0),
    ]
    page = write_run_report(run).read_text()
    assert "Against the weight of guidance, ddim" in page
    assert "Calls an\N{NO-BREAK SPACE}image" in page
    for name in ("guidance-0", "nfe"):
        for metric in ("frechet", "precision", "recall"):
            assert f'id="sweep-{name}-{metric}-' in page
    assert main(["evaluate", BASELINE, "--n", "20", "--steps", "1", "--guidance", "1", "2"]) == 2
    assert "reference" in capsys.readouterr().err
