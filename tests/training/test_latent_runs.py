"""A generator that is no denoiser, through a whole run: trained, resumed, drawn, saved, sampled, measured."""

import json

import pytest
import torch
from latent_runs import TinyGAN, points_gan, trainer
from PIL import Image
from small_runs import assert_same_checkpoint
from torch import nn

from sparring.cli.main import main
from sparring.data import Digits
from sparring.generators import LatentGenerator, load_generator
from sparring.methods.method import held_out
from sparring.networks import ConvGenerator
from sparring.report import write_run_report
from sparring.runs.pictures import GENERATED
from sparring.runs.results import measures_of, read_results
from sparring.samplers import Sampler


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trainer(tmp_path_factory.mktemp("gan") / "run", checkpoint_every=3).fit()


def test_three_steps_and_three_more_equal_six_bit_for_bit(run, tmp_path):
    trainer(tmp_path / "cut", steps=3).fit()
    trainer(tmp_path / "cut", steps=6).fit(resume=True)
    assert_same_checkpoint(run, tmp_path / "cut", 6)
    assert (run / "samples/000006.png").read_bytes() == (tmp_path / "cut/samples/000006.png").read_bytes()


def test_both_players_move_and_calls_of_the_generator_are_counted(tmp_path):
    start, training = points_gan(), trainer(tmp_path / "run")
    training.fit()
    for player in ("generator", "discriminator"):
        before, after = (getattr(method, player).state_dict() for method in (start, training.method))
        assert all(not torch.equal(before[name], after[name]) for name in before)
    assert training.images_so_far() == 6 * 32
    rates = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["gradient_norm/generator"] > 0 for line in rates)


def test_what_is_saved_is_the_average_and_opens_again(tmp_path):
    training = trainer(tmp_path / "run")
    training.fit()
    saved = load_generator(tmp_path / "run")
    for name, tensor in training.ema.module.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor)
    assert torch.equal(saved.sample(5, seed=3), training.ema.module.sample(5, seed=3))
    assert not torch.equal(saved.sample(5, seed=3), training.method.generator.sample(5, seed=3))
    assert not torch.equal(saved.sample(5, seed=3), saved.sample(5, seed=4))


def test_points_are_drawn_as_a_scatter_plot_on_the_page(run):
    with Image.open(run / "samples/000006.png") as picture:
        assert picture.size == (512, 512)
        assert GENERATED in {colour for _, colour in picture.getcolors(100_000)}
    assert "data:image/png" in write_run_report(run).read_text()


def test_the_command_line_samples_and_measures_it(run, tmp_path, capsys):
    out = tmp_path / "points.png"
    assert main(["sample", str(run), "--n", "50", "--out", str(out)]) == 0
    assert "(one call, 1 network call," in capsys.readouterr().out
    assert out.is_file()
    measured = [
        "evaluate",
        str(run),
        "--reference",
        "ring",
        "--train",
        "ring",
        "--features",
        "pixels",
        "--n",
        "100",
        "--json",
    ]
    assert main(measured) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["scheduler"], result["nfe"], result["n"]) == ("one call", 1, 100)
    assert main([*measured, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["frechet"] != result["frechet"]


class Measured(TinyGAN):
    """Measures its step, and how much of the run it has seen by its weights."""

    def measures(self, generator, data, draws):
        assert not torch.is_grad_enabled()
        assert not any(part.training for part in self.modules())
        batch = held_out(data, draws, 5)
        assert torch.equal(batch.images, data.holdout().images(5))
        return {"step": float(self.step), "spread": float(generator(generator.latents(batch)).std())}


def test_what_a_method_measures_is_in_the_log_and_in_its_results(tmp_path, capsys):
    gan = points_gan()
    out = trainer(tmp_path / "run", Measured(gan.generator, gan.discriminator), sample_every=4).fit()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line["measures/step"]) for line in lines if "measures/step" in line]
    assert found == [(4, 3.0), (6, 5.0)]
    last = {name: lines[-1][f"measures/{name}"] for name in ("step", "spread")}
    assert measures_of(out) == last
    flags = ["--reference", "ring", "--train", "ring", "--features", "points", "--n", "50"]
    assert main(["evaluate", str(out), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"] == last
    assert read_results(out)[0].measures == last
    assert main(["evaluate", str(out), *flags]) == 0
    assert "spread" in capsys.readouterr().out
    assert measures_of(tmp_path) is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--scheduler", "ddim"], "`scheduler=ddim`: Perceptron makes an image in one call; leave it out"),
        (["--guidance", "2"], "`guidance=2.0`: Perceptron makes an image in one call; leave it out"),
        (["--labels", "1"], "`labels=[1]`: Perceptron takes no classes; leave it out"),
        (["--prompt", "a"], "`prompt`: Perceptron takes no captions; leave it out"),
        (["--size", "8"], "Perceptron makes images of shape (2, 1, 1) and not (2, 8, 8)"),
        (["--out", "path.gif"], "a generator that makes images in one call has no path to show"),
        (["--out", "folder"], "points are drawn in one picture"),
    ],
)
def test_what_a_generator_of_one_call_does_not_have_is_refused_in_one_line(
    run, tmp_path, monkeypatch, capsys, flags, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run), "--n", "2", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradient_checkpointing": True}, "`gradient_checkpointing`: LatentGenerator has none"),
        ({"sharding": "fsdp2"}, "`sharding`: LatentGenerator cannot be spread over processes"),
        ({"data": Digits()}, r"makes images of shape \(2, 1, 1\) and not \(1, 8, 8\)"),
    ],
)
def test_a_trainer_refuses_what_the_generator_cannot_do(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path / "run", **settings)


def test_keep_best_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="`keep_best`: LatentGenerator has no error on held-out images"):
        trainer(tmp_path / "run", keep_best=True)


def test_a_class_conditional_generator_of_images_is_trained_and_sampled_class_after_class(tmp_path):
    torch.manual_seed(0)
    net = ConvGenerator(latent_dim=8, widths=(8, 8), groups=4, num_classes=10)
    judge = nn.Sequential(nn.Conv2d(1, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(288, 1))
    method = TinyGAN(LatentGenerator(net, 8, num_classes=10), judge)
    folder = trainer(tmp_path / "run", method, Digits(), steps=3, num_samples=20).fit()
    sampler = Sampler(folder, device="cpu")
    assert sampler.shape == (1, 8, 8)
    sevens = sampler(4, 1, labels=[7]).images
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = sampler.generator.net(z, torch.full((4,), 7)).clamp(-1, 1)
    torch.testing.assert_close(sevens, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="`label=10`: the network has the classes 0 to 9"):
        sampler(1, 1, labels=[10])
