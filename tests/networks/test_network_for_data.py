"""The network and the backbone that suit a data set."""

import pytest
import torch

from sparring.backbones import EfficientNetLite
from sparring.backbones.for_data import backbone_settings
from sparring.data import Draws, StoredImages
from sparring.discriminators import Given, PlainDiscriminator
from sparring.generators import Denoiser, LatentGenerator
from sparring.networks.for_data import built, gan_settings, network_for, network_in_words
from sparring.process import VP


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((2, 1, 1), 8, "MLP 2-D points, 136 k parameters, no classes"),
        ((1, 8, 8), 10, "UNet2DModel 8x8x1, 160 k parameters, 10 classes"),
        ((3, 32, 32), 10, "UNet2DModel 32x32x3, 1.7 M parameters, 10 classes"),
        ((1, 28, 28), None, "UNet2DModel 28x28x1, 1.7 M parameters, no classes"),
        ((3, 64, 48), None, "UNet2DModel 48x64x3, 3.4 M parameters, no classes"),
        ((3, 30, 30), None, "UNet2DModel 30x30x3, 635 k parameters, no classes"),
    ],
)
def test_a_network_fits_the_images_and_leaves_a_class_for_none(shape, classes, words):
    denoiser = Denoiser(network_for(shape, classes), VP(schedule="cosine"), "v")
    labels = None if classes is None else torch.arange(20) % classes
    denoiser.check(StoredImages(torch.zeros(20, *shape), labels, num_classes=classes))
    assert network_in_words(denoiser.net, shape, classes if denoiser.takes_labels else None) == words
    if denoiser.takes_labels:
        assert denoiser.null_class == classes


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((2, 1, 1), 8, ["Perceptron 2-D points, 34 k parameters, no classes"] * 2),
        ((1, 8, 8), None, ["ConvGenerator 8x8x1, ", "ConvDiscriminator 8x8x1, "]),
        ((3, 28, 28), 10, ["ConvGenerator 28x28x3, ", "ConvDiscriminator 28x28x3, "]),
        ((1, 32, 24), 3, ["ConvGenerator 24x32x1, ", "ConvDiscriminator 24x32x1, "]),
    ],
)
def test_the_networks_of_a_gan_fit_the_images_and_their_classes(shape, classes, words):
    parts = gan_settings(shape, classes)
    generator = LatentGenerator(**generator_settings(parts))
    settings = parts["plain_discriminator"]["init_args"]
    discriminator = PlainDiscriminator(net=built(settings["net"]), given=settings["given"])
    data = StoredImages(torch.zeros(20, *shape), None if classes is None else torch.arange(20) % classes)
    generator.check(data)
    assert generator.num_classes == (None if shape[1:] == (1, 1) else classes)
    labels = None if classes is None else torch.zeros(2, dtype=torch.long)
    made = generator(torch.zeros(2, generator.latent_dim), labels)
    assert discriminator(made, Given(labels=labels), Draws(0)).shape[0] == 2
    for net, start in zip((generator.net, discriminator.net), words, strict=True):
        assert network_in_words(net, shape, generator.num_classes).startswith(start)


def generator_settings(parts):
    settings = parts["latent_generator"]["init_args"]
    return settings | {"net": built(settings["net"])}


def test_large_images_have_no_networks_of_a_gan():
    with pytest.raises(ValueError, match="no networks of a GAN are chosen for images of 96x96"):
        gan_settings((3, 96, 96))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 512, 512), "--data.size 32.*--init.*--denoiser.net"), ((1, 33, 33), "--data.size 32 or --data.pad 1")],
)
def test_sizes_for_which_none_is_chosen(shape, message):
    with pytest.raises(ValueError, match=message):
        network_for(shape)


def test_the_backbone_is_pretrained_for_colour_and_learned_for_grey(monkeypatch):
    monkeypatch.setattr(EfficientNetLite, "installed", staticmethod(lambda: True))
    assert backbone_settings((3, 32, 32), 10) == {
        "class_path": "sparring.backbones.EfficientNetLite",
        "init_args": {"image_size": 64},
    }
    assert backbone_settings((3, 512, 512))["init_args"] == {"image_size": 224}
    monkeypatch.setattr(EfficientNetLite, "installed", staticmethod(lambda: False))
    learned = "sparring.backbones.SmallConvNet"
    assert backbone_settings((1, 28, 28), 10) == {
        "class_path": learned,
        "init_args": {"in_channels": 1, "num_classes": 10},
    }
    assert backbone_settings((3, 32, 32)) == {
        "class_path": learned,
        "init_args": {"in_channels": 3, "pretrain": "self-supervised"},
    }
    with pytest.raises(ValueError, match=r"pip install 'sparring\[imagenet\]', or name one"):
        backbone_settings((3, 512, 512))
