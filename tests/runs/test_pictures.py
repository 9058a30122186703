"""Pictures of points: where a point lies, real ones behind, and animations of sampling and of training."""

import pytest
import torch
from PIL import Image

from sparring.cli.main import main
from sparring.data import GaussianMixture
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.networks import MLP
from sparring.process import VP
from sparring.runs.pictures import GENERATED, REAL, image_grid, training_frames
from sparring.training import Trainer


def points(*places):
    return torch.tensor(places)[:, :, None, None]


def test_a_point_lies_where_its_coordinates_say():
    """Limit 1.25 on 512 pixels: (1, 0.5) is at 511 * (1 + 0.8) / 2 = 460 from the left, 511 * 0.7 = 358 from below."""
    picture = image_grid(points((1.0, 0.5)))
    assert picture.size == (512, 512)
    assert picture.getpixel((460, 511 - 358)) == GENERATED
    assert picture.getpixel((460, 358)) == (255, 255, 255)
    beyond = image_grid(points((9.0, 0.5)))
    assert beyond.getpixel((511, 511 - 358)) == GENERATED


def test_real_points_are_behind_generated_ones():
    picture = image_grid(points((0.5, 0.5)), real=points((0.5, 0.5), (-0.5, 0.5)))
    x, y = 358, 511 - 358
    assert picture.getpixel((x, y)) == GENERATED
    assert picture.getpixel((511 - x, y)) == REAL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = GaussianMixture(num_samples=200)
    denoiser = Denoiser(MLP(width=16), VP(schedule="cosine"), "v")
    settings = dict(steps=4, sample_every=2, batch_size=16, num_samples=20, tracker=None)
    config = {"data": {"class_path": "sparring.data.GaussianMixture", "init_args": {"num_samples": 200}}}
    out = tmp_path_factory.mktemp("runs") / "points"
    return Trainer(Diffusion(denoiser), data, out=out, config=config, **settings).fit()


def test_a_run_on_points_draws_them_over_its_data(run, tmp_path):
    with Image.open(run / "samples" / "000004.png") as picture:
        colours = {colour for _, colour in picture.getcolors(100_000)}
    assert {GENERATED, REAL} <= colours
    assert main(["sample", str(run), "--n", "30", "--out", str(tmp_path / "points.png")]) == 0
    with Image.open(tmp_path / "points.png") as picture:
        colours = {colour for _, colour in picture.getcolors(100_000)}
    assert {GENERATED, REAL} <= colours
    words = ["--sweep", "--steps", "1", "--scheduler", "ddim", "--n", "30", "--out", str(tmp_path / "sheet.png")]
    assert main(["sample", str(run), *words]) == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        colours = {colour for _, colour in picture.getcolors(100_000)}
    assert {GENERATED, REAL} <= colours


def test_animations_of_sampling_and_of_training(run, tmp_path, capsys):
    assert main(["sample", str(run), "--n", "30", "--steps", "3", "--out", str(tmp_path / "path.gif")]) == 0
    assert main(["sample", str(run), "--training", "--out", str(tmp_path / "training.gif")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"the denoising path of 30 points as {tmp_path / 'path.gif'} (ddim, 3 network calls, ")
    assert second == f"the samples of 3 steps of {run} as {tmp_path / 'training.gif'}"
    with Image.open(tmp_path / "path.gif") as path, Image.open(tmp_path / "training.gif") as training:
        assert (path.n_frames, training.n_frames) == (4, 3)  # noise and three steps; steps 0, 2 and 4


def test_what_cannot_be_animated(run, tmp_path, capsys):
    assert main(["sample", str(run), "--training", "--out", str(tmp_path / "training.png")]) == 2
    assert "--training" in capsys.readouterr().err
    (tmp_path / "samples").mkdir()
    with pytest.raises(ValueError, match="0 pictures and an animation needs two: train with --trainer.sample_every"):
        training_frames(tmp_path / "samples")
