"""What a run remembers of the objects of a program: class, arguments and weights, and nothing that is not trusted."""

import json
import sys

import pytest
import torch
import yaml
from torch import nn

from sparring.cli.main import main
from sparring.generators import Denoiser, LatentGenerator, load_generator
from sparring.process import EDM, VP, RectifiedFlow
from sparring.runs.classes import describe, make

SHORT = ["--trainer.steps=2", "--trainer.batch_size=8", "--trainer.num_samples=1", "--trainer.tracker=null"]
OWN = """
import torch
from torch import nn
from sparring.data import StoredImages


class Remembering(nn.Module):
    def __init__(self, width, scale=1.0):
        super().__init__()
        self.width = width
        self.scale = scale
        self.net = nn.Conv2d(1, 1, 3, padding=1)
        self.wide = nn.Conv2d(1, width, 1)

    def forward(self, x, time):
        return self.scale * self.net(x) + self.wide(x).mean(1, keepdim=True) + time.view(-1, 1, 1, 1) / 1000


class Forgetful(Remembering):
    def __init__(self, size):
        super().__init__(size)


class Stripes(StoredImages):
    def __init__(self, count=20):
        super().__init__(torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, name="stripes")
        self.count = count


class Picture(nn.Module):
    def __init__(self, latent):
        super().__init__()
        self.latent = latent
        self.net = nn.Linear(latent, 64)

    def forward(self, z):
        return self.net(z).view(-1, 1, 8, 8)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working folder, with a module of the user's own."""
    (tmp_path / "ownparts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import ownparts

    yield ownparts
    sys.modules.pop("ownparts", None)


def test_arguments_are_attributes_of_the_same_name(own):
    assert describe(own.Remembering(3, scale=2.0)) == {
        "class_path": "ownparts.Remembering",
        "init_args": {"width": 3, "scale": 2.0},
    }
    assert describe(own.Forgetful(3)) is None  # `size` is kept nowhere
    assert describe(nn.Sequential(nn.Linear(1, 1))) is None
    assert describe(make(describe(nn.Linear(3, 2)))) is not None


@pytest.mark.parametrize(("process", "kind"), [(VP(schedule="cosine"), "v"), (RectifiedFlow(), "flow"), (EDM(), "edm")])
def test_a_denoiser_of_an_own_network_is_opened_as_it_was(own, tmp_path, process, kind):
    torch.manual_seed(0)
    denoiser = Denoiser(own.Remembering(3, scale=0.5), process, kind)
    denoiser.check_shape((1, 8, 8))
    assert denoiser.save(tmp_path / "kept")
    with pytest.raises(ValueError, match="if you trust it, add --allow ownparts"):
        load_generator(tmp_path / "kept")
    opened = load_generator(tmp_path / "kept", allow=["ownparts"])
    assert torch.equal(opened.sample(3, 4, seed=1), denoiser.sample(3, 4, seed=1))
    denoiser.net.net.weight.data += 1
    assert denoiser.save(tmp_path / "kept")  # only the weights are written again
    opened = load_generator(tmp_path / "kept", allow=["ownparts"])
    assert torch.equal(opened.sample(3, 4, seed=1), denoiser.sample(3, 4, seed=1))


def test_a_generator_of_an_own_network_is_opened_as_it_was(own, tmp_path):
    generator = LatentGenerator(own.Picture(5), latent_dim=5)
    assert generator.save(tmp_path / "kept")
    opened = load_generator(tmp_path / "kept", allow=["ownparts"])
    assert torch.equal(opened.sample(3), generator.sample(3))


def test_a_network_that_cannot_be_made_again_is_not_written(own, tmp_path):
    assert not Denoiser(own.Forgetful(3), VP(), "v").save(tmp_path / "none")
    changed = own.Remembering(3)
    changed.width = 4  # says what is not so
    assert not Denoiser(changed, VP(), "v").save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    denoiser, before = Denoiser(own.Remembering(3), VP(), "v"), torch.random.get_rng_state()
    denoiser.save(tmp_path / "kept")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "class_path",
    ["torch.load", "torch.package.PackageImporter", "sparring.cli.main.main", "sparring.runs.classes.find"],
)
def test_only_networks_and_data_sets_are_made(class_path):
    with pytest.raises(ValueError, match="is no class|is neither a network nor a data set"):
        make({"class_path": class_path, "init_args": {}})


def test_a_recipe_of_own_classes_is_fitted_sampled_measured_and_tuned(own, tmp_path, capsys):
    """The network keeps its arguments nowhere: the recipe says them."""
    recipe = {
        "data": {"class_path": "ownparts.Stripes"},
        "denoiser": {
            "net": {"class_path": "ownparts.Forgetful", "init_args": {"size": 3}},
            "process": {"class_path": "sparring.process.VP"},
            "prediction": "v",
        },
        "method": {"class_path": "sparring.methods.denoising.diffusion.Diffusion"},
        "trainer": {},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    trusted = ["--allow", "ownparts"]
    assert main(["fit", "own.yaml", "--out", "base", *SHORT, *trusted]) == 0
    assert "next: sparring sample base --steps 10 --allow ownparts" in capsys.readouterr().out
    assert main(["sample", "base", "--n", "4", "--out", "grid.png", *trusted]) == 0
    measure = ["evaluate", "base", "--n", "10", "--steps", "2", "--features", "pixels", "--json"]
    assert main([*measure, "--reference", "digits"]) == 2
    assert "--allow ownparts" in capsys.readouterr().err
    assert main([*measure, "--reference", "digits", *trusted]) == 0
    assert json.loads(capsys.readouterr().out)["train"] == "stripes"
    tune = ["fit", "diffusion", "--on", "digits", "--init", "base", "--out", "tuned"]
    assert main([*tune, *SHORT]) == 2
    assert "--allow ownparts" in capsys.readouterr().err
    assert main([*tune, *SHORT, *trusted]) == 0
    assert main([*tune, "--resume", "--trainer.steps=3"]) == 2  # a run does not vouch for its own classes
    assert main([*tune, "--resume", "--trainer.steps=3", *trusted]) == 0


def test_a_data_set_by_its_short_name_is_found_again(tmp_path, capsys):
    from sparring.evaluation import data_of_run

    out = str(tmp_path / "run")
    assert main(["fit", "diffusion", "--on", "digits", "--data.class_path", "Digits", "--out", out, *SHORT]) == 0
    assert data_of_run(tmp_path / "run").name == "digits"
