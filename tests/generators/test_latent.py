"""The latent generator by itself: what it is given, what it refuses, and what its folder holds."""

import json

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.generators import LatentGenerator, Sampling, load_generator
from sparring.generators.sampling import clamped
from sparring.networks import ConvGenerator, Perceptron
from sparring.samplers import Sampler


def images(size=8, num_classes=3):
    return StoredImages(torch.zeros(6, 1, size, size), torch.arange(6) % num_classes)


def made(**settings):
    torch.manual_seed(0)
    return LatentGenerator(ConvGenerator(latent_dim=4, widths=(8, 8), groups=4, **settings), 4, **settings)


@pytest.mark.parametrize("widths", [(8,), (8, 8), (8, 8, 4), (8, 8, 8, 4)])
def test_the_convolutional_generator_has_the_size_it_says_and_rows_know_nothing_of_each_other(widths):
    torch.manual_seed(0)
    net = ConvGenerator(latent_dim=4, out_channels=3, size=4 * 2 ** (len(widths) - 1), widths=widths, groups=4).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)  # the blocks are the identity at the start
    z = torch.randn(5, 4, dtype=torch.float64)
    whole = net(z)
    assert whole.shape == (5, 3, net.config.size, net.config.size)
    torch.testing.assert_close(torch.cat([net(row[None]) for row in z]), whole, rtol=0, atol=1e-12)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_latents_are_a_function_of_the_row_in_the_global_batch():
    generator = made()
    whole = generator.latents(Batch(torch.zeros(6, 1, 8, 8), draws=Draws(3)))
    parts = [Draws(3, rows=slice(i, i + 2), total=6) for i in (0, 2, 4)]
    assert torch.equal(torch.cat([generator.latents(Batch(torch.zeros(2, 1, 8, 8), draws=d)) for d in parts]), whole)


def test_the_size_of_a_batch_changes_no_sample_and_the_mode_is_put_back():
    generator = made(num_classes=3).train()
    torch.testing.assert_close(generator.sample(7), generator.sample(7, batch_size=2), rtol=0, atol=1e-6)
    assert generator.training
    assert generator.images_seen == 14


def test_samples_leave_every_part_in_its_mode():
    generator = made().train()
    part = next(generator.net.children()).eval()
    list(generator.draw(Sampling(n=2)))
    assert not part.training
    assert generator.training
    assert generator.net.training


def test_infinite_images_are_refused_and_no_white_grid_is_made(monkeypatch):
    generator = made()
    monkeypatch.setattr(generator.net, "forward", lambda *_, **__: torch.full((2, 1, 8, 8), torch.inf))
    with pytest.raises(ValueError, match="2 of 2 images are not numbers"):
        Sampler(generator, device="cpu")(2, 1)
    finite = torch.tensor([-2.0, -0.5, 1.5])
    assert torch.equal(clamped(finite), finite.clamp(-1, 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (images(size=16), r"makes images of shape \(1, 8, 8\) and not \(1, 16, 16\)"),
        (images(num_classes=2), "`num_classes=3`: `images` has 2 classes"),
        (StoredImages(torch.zeros(6, 1, 8, 8)), "`num_classes=3`: `images` has no labels"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, words):
    made(num_classes=3).check(images())
    with pytest.raises(ValueError, match=words):
        made(num_classes=3).check(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LatentGenerator(nn.Linear(4, 2), 4), "must give images .* and gives"),
        (
            lambda: LatentGenerator(Perceptron(in_features=4, out_shape=(2, 1, 1)), 3),
            "cannot take latents of 3 numbers",
        ),
        (lambda: LatentGenerator(Perceptron(in_features=4, out_shape=(2, 1, 1)), 0), "`latent_dim=0`"),
        (lambda: ConvGenerator(size=12, widths=(8,)), "`size=12`"),
        (lambda: ConvGenerator(widths=(8, 6), groups=4), "`groups=4` must divide"),
        (lambda: ConvGenerator()(torch.zeros(1, 64), torch.zeros(1)), "belong together"),
    ],
)
def test_networks_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_network_without_configuration_has_no_folder(tmp_path):
    net = nn.Sequential(nn.Linear(4, 2), nn.Unflatten(1, (2, 1, 1)))
    assert not LatentGenerator(net, 4).save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "generator.json").write_text("{"), "generator.json is damaged"),
        (lambda p: (p / "generator.safetensors").write_bytes(b"x"), "could not be opened"),
        (lambda p: (p / "generator.safetensors").unlink(), "could not be opened"),
        (
            lambda p: rename(p, "foreign.Net"),
            "foreign.Net is of .foreign. and none of the packages .* add --allow foreign",
        ),
        (lambda p: rename(p, "sparring.networks.Nothing"), "cannot be made"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_line(tmp_path, damage, words):
    made().save(tmp_path / "p")
    load_generator(tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises(ValueError, match=words) as error:
        load_generator(tmp_path / "p")
    assert "\n" not in str(error.value)


def rename(folder, class_path):
    config = json.loads((folder / "generator.json").read_text())
    config["net"]["class_path"] = class_path
    (folder / "generator.json").write_text(json.dumps(config))
