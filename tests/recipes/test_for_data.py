"""What suits the user's own data is chosen, said, and gives way to what the user says."""

import numpy as np
import pytest
import yaml
from PIL import Image

from sparring.backbones import EfficientNetLite
from sparring.cli.main import main
from sparring.recipes.for_data import diffused_shape, named, of_data, of_pixels

pytestmark = pytest.mark.slow

SHORT = ["--trainer.steps=2", "--trainer.batch_size=8", "--trainer.num_samples=4", "--trainer.tracker=null"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Colour images in two class folders, and grey ones in none."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(24):
        colour, grey = root / "colour" / "ab"[number % 2], root / "grey"
        for folder, shape in ((colour, (20, 20, 3)), (grey, (20, 20))):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def bases(folders, tmp_path_factory):
    """A run from scratch on each folder."""
    out = tmp_path_factory.mktemp("runs")
    for name, flags in (("colour", []), ("grey", ["--data.channels=1"])):
        arguments = ["--data", str(folders / name), "--data.size=8", *flags, "--out", str(out / name)]
        assert main(["fit", "diffusion", *arguments, *SHORT]) == 0
    return out


def config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def test_a_network_is_chosen_for_colour_images_with_classes(folders, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["fit", "diffusion", "--data", str(folders / "colour"), "--data.size", "8", "--out", str(out), *SHORT]
    assert main(arguments) == 0
    assert "network: UNet2DModel 8x8x3, 160 k parameters, 2 classes + none\n" in capsys.readouterr().err
    denoiser = config(out)["denoiser"]
    assert denoiser["net"]["init_args"]["num_class_embeds"] == 3
    assert denoiser["condition_dropout"] == 0.1
    assert (
        main(["sample", str(out), "--n", "2", "--steps", "2", "--guidance", "2", "--out", str(tmp_path / "x.png")]) == 0
    )
    arguments[arguments.index("--trainer.steps=2")] = "--trainer.steps=3"
    assert main([*arguments, "--resume"]) == 0


def test_a_recipe_with_a_network_of_its_own_keeps_it(folders, tmp_path, capsys):
    arguments = ["--data", str(folders / "grey"), "--data.size", "8", "--out", str(tmp_path / "run"), *SHORT]
    assert main(["fit", "positional", *arguments]) == 0
    assert "network: " not in capsys.readouterr().err
    denoiser = config(tmp_path / "run")["denoiser"]
    assert denoiser["net"]["class_path"] == "sparring.networks.BlockUNet"
    assert not denoiser["condition_dropout"]


@pytest.mark.parametrize("method", ["sadm", "adt", "ddo", "add"])
@pytest.mark.parametrize("images", ["colour", "grey"])
def test_methods_tune_own_pixels(method, images, folders, bases, tmp_path, capsys, monkeypatch):
    """Colour with labels and a pretrained backbone; grey without labels and one that learns from the data."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = ["--data", str(folders / images), "--data.size=8", *(["--data.channels=1"] if images == "grey" else [])]
    further = ["--method.num_fakes=16"] if method == "ddo" else []
    init = ["--init", str(bases / images), "--out", str(tmp_path / "run")]
    assert main(["fit", method, *data, *init, *further, *SHORT]) == 0
    said = capsys.readouterr().err
    if method == "ddo":
        assert "backbone" not in said
    elif images == "grey":
        assert "backbone: SmallConvNet, trained on the data without labels\n" in said
    elif EfficientNetLite.installed():
        assert "backbone: EfficientNetLite (ImageNet) at 64 pixels\n" in said
    assert config(tmp_path / "run")["trainer"]["generator_optimizer"]["lr"] == 5e-4  # the scale of a small tuning


def test_flags_go_before_what_is_chosen(folders, bases, tmp_path, capsys):
    backbone = ["--method.discriminator.backbone=SmallConvNet", "--method.discriminator.backbone.in_channels=3"]
    backbone += ["--method.discriminator.backbone.pretrain=none"]
    where = ["--init", str(bases / "colour"), "--out", str(tmp_path / "adt")]
    assert main(["fit", "adt", "--data", str(folders / "colour"), "--data.size=8", *where, *backbone, *SHORT]) == 0
    assert "backbone" not in capsys.readouterr().err
    net = ["--denoiser.net.init_args.block_out_channels=[8,16]"]
    out = ["--out", str(tmp_path / "narrow")]
    assert main(["fit", "diffusion", "--data", str(folders / "colour"), "--data.size=8", *net, *out, *SHORT]) == 0
    assert config(tmp_path / "narrow")["denoiser"]["net"]["init_args"]["block_out_channels"] == [8, 16]


def test_points_have_a_network_of_theirs(tmp_path, capsys):
    assert main(["fit", "diffusion", "--data", "ring", "--out", str(tmp_path / "points"), *SHORT]) == 0
    assert "network: MLP 2-D points, 136 k parameters, no classes\n" in capsys.readouterr().err
    assert config(tmp_path / "points")["denoiser"]["net"]["class_path"] == "sparring.networks.MLP"


@pytest.mark.parametrize("images", ["colour", "grey"])
def test_a_gan_follows_own_images_and_their_classes(images, folders, tmp_path, capsys):
    data = ["--data", str(folders / images), "--data.size=8", *(["--data.channels=1"] if images == "grey" else [])]
    assert main(["fit", "wgan", *data, "--out", str(tmp_path / "run"), *SHORT]) == 0
    words = "8x8x3, 2 classes" if images == "colour" else "8x8x1, no classes"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " parameters, " in line]
    said = line.split("; ")
    assert [line.split(":")[0] for line in said] == ["generator", "discriminator"]
    for part in said:
        assert f"{part.split()[2]} {part.split(', ')[2]}" == words
    assert main(["sample", str(tmp_path / "run"), "--n", "2", "--out", str(tmp_path / "x.png")]) == 0


def test_heads_on_a_backbone_are_conditioned_on_the_classes_of_own_images(folders, tmp_path):
    out = tmp_path / "run"
    arguments = ["fit", "projected_gan", "--data", str(folders / "colour"), "--data.size=8", "--out", str(out)]
    backbone = ["--method.discriminator.backbone=SmallConvNet", "--method.discriminator.backbone.in_channels=3"]
    assert main([*arguments, *backbone, "--method.discriminator.backbone.pretrain=none", *SHORT]) == 0
    assert config(out)["generator"]["init_args"]["num_classes"] == 2
    assert config(out)["method"]["init_args"]["discriminator"]["init_args"]["num_classes"] == 2


def test_growing_networks_follow_own_images_and_refuse_points(folders, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["fit", "progressive_gan", "--data", str(folders / "colour"), "--data.size=8", "--out", str(out)]
    assert main([*arguments, *SHORT]) == 0
    net = config(out)["generator"]["init_args"]["net"]["init_args"]
    assert (net["out_channels"], net["size"]) == (3, 8)
    assert main(["sample", str(out), "--n", "2", "--out", str(tmp_path / "x.png")]) == 0
    capsys.readouterr()
    assert main(["fit", "progressive_gan", "--on", "ring", "--out", str(tmp_path / "points")]) == 2
    assert "makes images of shape (1, 8, 8) and not (2, 1, 1)" in capsys.readouterr().err


def test_a_gan_of_own_points_has_perceptrons(tmp_path):
    assert main(["fit", "gan", "--data", "ring", "--out", str(tmp_path / "points"), *SHORT]) == 0
    assert config(tmp_path / "points")["generator"]["init_args"]["net"]["class_path"] == "sparring.networks.Perceptron"


def test_images_for_which_nothing_is_chosen(folders, tmp_path, capsys):
    arguments = ["--data", str(folders / "colour"), "--data.size=96", "--out", str(tmp_path / "run"), *SHORT]
    assert main(["fit", "diffusion", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data.size 32" in line
    assert "--denoiser.net" in line
    assert not (tmp_path / "run").exists()


def test_flags_about_the_data_and_about_a_class():
    flags = ["--data.size", "32", "--trainer.steps", "5", "--data.labels=true", "--data", "X", "--datum=3"]
    assert of_data(flags) == ["--data.size", "32", "--data.labels=true", "--data", "X"]
    assert named("backbone", flags=["--method.discriminator.backbone.class_path=DINOv2"])
    assert named("backbone", flags=["--method.discriminator.init_args.backbone", "DINOv2"])
    assert not named("backbone", flags=["--method.discriminator.backbone.image_size=64"])


def test_pipelines_of_latents_and_captions_are_not_of_pixels(bases, tiny):
    assert of_pixels(bases / "colour")
    assert not of_pixels(tiny("sd15"))
    assert not of_pixels(tiny("dit"))


def test_networks_of_a_gan_are_as_large_as_what_is_diffused(bases, tiny):
    assert diffused_shape(bases / "colour", (3, 16, 16)) == (3, 16, 16)
    assert diffused_shape(tiny("sd15"), (3, 32, 16)) == (4, 16, 8)
