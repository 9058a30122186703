"""The network and the backbone that suit a data set."""

import pytest
import torch

from sparring.backbones import EfficientNetLite
from sparring.backbones.for_data import backbone_settings
from sparring.data import StoredImages
from sparring.generators import Denoiser
from sparring.networks.for_data import network_for, network_in_words
from sparring.process import VP


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((2, 1, 1), 8, "MLP 2-D points, 136 k parameters, no classes"),
        ((1, 8, 8), 10, "UNet2DModel 8x8x1, 160 k parameters, 10 classes + none"),
        ((3, 32, 32), 10, "UNet2DModel 32x32x3, 1.7 M parameters, 10 classes + none"),
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
