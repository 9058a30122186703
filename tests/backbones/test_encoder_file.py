"""Encoders in files: the same features, the same settings, and files that are none."""

import pytest
import torch
from safetensors.torch import save_file

from sparring.backbones import FileEncoder, SmallConvNet, save_encoder
from sparring.discriminators import Given, StructureDiscriminator


def images(n=40, channels=2):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def file(tmp_path):
    net = SmallConvNet(
        in_channels=2,
        widths=(4, 6),
        pretrain="self-supervised",
        kernel_size=5,
        activation="leaky_relu",
        epochs=1,
        seed=7,
    )
    net.prepare(images(), None)
    path = tmp_path / "encoder.safetensors"
    save_encoder(net, path, images(), data="noise")
    return net, path


def test_a_file_gives_the_same_network(file):
    net, path = file
    again = FileEncoder(path=str(path))
    assert (again.name, again.dim, again.channels, again.accuracy) == (net.name, 6, [4, 6], net.accuracy)
    assert torch.equal(again.features(images()), net.features(images()))
    assert not again.prepare(images(), None)
    features = net.features(images()).detach()
    torch.testing.assert_close(again.mean, features.mean(0))
    torch.testing.assert_close(again.std, features.std(0))
    assert [p.name for p in path.parent.iterdir()] == ["encoder.safetensors"]


def test_a_classifier_keeps_its_classes(tmp_path):
    net = SmallConvNet(in_channels=2, widths=(4,), num_classes=3, epochs=1)
    net.prepare(images(), torch.arange(40) % 3)
    save_encoder(net, tmp_path / "c.safetensors", images())
    again = FileEncoder(path=str(tmp_path / "c.safetensors"))
    assert torch.equal(again.logits(images()), net.logits(images()))
    assert not any(p.requires_grad for p in again.classifier.parameters())


def test_it_is_trained_on_as_the_encoder_of_a_discriminator(file):
    discriminator = StructureDiscriminator(encoder=FileEncoder(path=str(file[1])))
    real, fake = images(8), images(8).flip(0) * 0.5
    discriminator.logits([fake], Given(reference=[real])).sum().backward()
    assert all(p.grad is not None for p in discriminator.parameters() if p.requires_grad)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="`path=no-such-file` is not a file: make one with `sparring encoder"):
        FileEncoder(path="no-such-file")
    for name, write in {
        "half": lambda path: path.write_bytes(b"half"),
        "other": lambda path: save_file({"x": torch.zeros(2)}, path),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ValueError, match="is no encoder"):
            FileEncoder(path=str(tmp_path / name))
