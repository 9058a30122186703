"""Backbones: sizes, frozen behaviour, gradients to the images, and the small classifier's accuracy."""

import math
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.backbones import CifarResNet, DINOv2, SmallConvNet, fit_classifier, freeze
from sparring.backbones.backbone import imagenet_input
from sparring.data import StoredImages
from sparring.discriminators import Given, StructureDiscriminator


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        (1, [1, 1, 1]),
        (2, [2, 2, 2]),
        (5, [5, 5, 3]),
        (8, [8, 4, 2]),
        (16, [8, 4, 2]),
        (28, [14, 7, 4]),
        (64, [32, 16, 8]),
    ],
)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_small_convnet_takes_any_size(size, grids, kernel_size):
    net = SmallConvNet(in_channels=2, widths=(8, 12, 16), pretrain="none", kernel_size=kernel_size)
    x = torch.randn(3, 2, size, size, requires_grad=True)
    maps = net.maps(x)
    assert [tuple(m.shape) for m in maps] == [(3, c, g, g) for c, g in zip(net.channels, grids, strict=True)]
    features = net.features(x)
    assert features.shape == (3, net.dim)
    torch.testing.assert_close(features, maps[-1].mean((2, 3)))
    features.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_seeds_decide_the_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (SmallConvNet(in_channels=1, pretrain="none", seed=s) for s in (1, 1, 2))
    torch.testing.assert_close(torch.rand(3), expected)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.stages[0].conv.weight, c.stages[0].conv.weight)


def test_rows_do_not_influence_each_other():
    net = SmallConvNet(in_channels=1, pretrain="none").train()
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(net.features(x)[2:3], net.features(x[2:3]))


def test_digits_are_learned(digits):
    images, labels, held_images, held_labels = digits
    net = SmallConvNet(in_channels=1, num_classes=10)
    assert math.isnan(net.accuracy)
    flags = [p.requires_grad for p in net.parameters()]
    state = torch.get_rng_state()
    assert net.prepare(images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    assert net.accuracy >= 0.95  # on 100 of the training images
    with torch.no_grad():
        assert (net.logits(held_images).argmax(1) == held_labels).float().mean() >= 0.97
    weights = net.stages[0].conv.weight.clone()
    assert not net.prepare(images, labels)  # prepared already
    assert torch.equal(net.stages[0].conv.weight, weights)
    again = SmallConvNet(in_channels=1, num_classes=10)
    again.load_state_dict(net.state_dict())
    assert again.accuracy == net.accuracy  # and it would not be trained again after a resume
    assert not again.prepare(images, labels)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held = order[:1000], order[1000:1300]
    return images[train], labels[train], images[held], labels[held]


def test_training_is_repeatable(digits):
    images, labels, *held = digits
    nets = [SmallConvNet(in_channels=1, widths=(8, 8), num_classes=10) for _ in range(2)]
    for i, net in enumerate(nets):
        torch.manual_seed(i)
        with torch.no_grad():  # a caller's no_grad does not stop the training
            fit_classifier(net, images[:256], labels[:256], validation=(held[0], held[1]), epochs=2)
    start = SmallConvNet(in_channels=1, widths=(8, 8), num_classes=10)
    for a, b, c in zip(*(net.parameters() for net in (*nets, start)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_prepared_encoder_becomes_the_start_of_the_structure_discriminator(digits):
    discriminator = StructureDiscriminator(
        encoder=SmallConvNet(in_channels=1, widths=(8, 8), num_classes=10, epochs=1), anchor=1.0
    )
    data, weight = StoredImages(digits[0][:256], digits[1][:256]), discriminator.encoder.stages[0].conv.weight
    before = weight.detach().clone()
    discriminator.prepare(data)
    assert not torch.equal(weight, before)
    assert discriminator.anchor_penalty() == 0
    with torch.no_grad():
        weight += 1
    discriminator.prepare(data)  # as after a resume: neither trained nor a new start
    assert discriminator.anchor_penalty() > 0


def test_the_seed_of_the_run_gives_another_net_and_seed_0_the_nets_own(digits):
    """Its start and its draws: features follow the seed of the run as all other randomness does."""

    def net(seed, own=0, epochs=1):
        made = SmallConvNet(in_channels=1, widths=(4, 4), num_classes=10, epochs=epochs, seed=own)
        made.prepare(digits[0][:64], digits[1][:64], seed)
        return made.features(digits[0][:8])

    assert torch.equal(net(0), net(0))
    assert not torch.allclose(net(0), net(1))
    assert torch.equal(net(3), net(0, own=3))
    assert torch.equal(
        net(1, epochs=0), SmallConvNet(in_channels=1, widths=(4, 4), seed=1, num_classes=10).features(digits[0][:8])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "num_classes"),
        ({"pretrain": "none", "kernel_size": 2}, "kernel_size"),
        ({"pretrain": "none", "widths": ()}, "widths"),
        ({"widths": (8, 0), "pretrain": "none"}, "stages of width 1 or more"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmallConvNet(in_channels=1, **arguments)


def test_prepare_errors():
    net = SmallConvNet(in_channels=1, num_classes=3)
    images = torch.zeros(20, 1, 8, 8)
    with pytest.raises(ValueError, match="labels"):
        net.prepare(images, None)
    with pytest.raises(ValueError, match="num_classes=3"):
        net.prepare(images, torch.full((20,), 3))
    with pytest.raises(ValueError, match="got 4"):
        net.prepare(images[:4], torch.zeros(4, dtype=torch.int64))
    random = SmallConvNet(in_channels=1, pretrain="none")
    assert not random.prepare(images, None)
    with pytest.raises(ValueError, match="num_classes"):
        random.logits(images)


def test_freeze():
    net = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("depth", [("resnet20-12fca82f.th", 20), ("resnet56-4bfd9763.th", 56)])
def test_cifar_resnet(shared, depth):
    name, layers = depth
    net = CifarResNet(path=str(shared / "weights" / name)).train()
    assert net.name == f"cifar-resnet{layers}"
    assert not any(m.training for m in net.modules())
    for shape in [(2, 3, 32, 32), (2, 1, 28, 28), (2, 3, 64, 64)]:
        x = torch.rand(shape).mul(2).sub(1).requires_grad_()
        maps = net.maps(x)
        assert [tuple(m.shape) for m in maps] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
        net.features(x).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
    assert net.logits(x).shape == (2, 10)


def test_cifar_resnet_first_layer_by_hand(shared):
    """A grey image in [-1,1] reaches the first convolution as three channels, normalised."""
    net = CifarResNet(path=str(shared / "weights" / "resnet20-12fca82f.th"))
    seen = []
    net.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(torch.full((1, 1, 32, 32), 0.5))
    expected = [(0.75 - m) / s for m, s in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    torch.testing.assert_close(seen[0][0, :, 4, 9], torch.tensor(expected))
    with pytest.raises(ValueError, match="4 channels"):
        net(torch.zeros(1, 4, 32, 32))
    with pytest.raises(ValueError, match="no-such-file"):
        CifarResNet(path="no-such-file")


@pytest.fixture(scope="module")
def dino_path(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    path = tmp_path_factory.mktemp("models") / "tiny-dinov2"
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("image_size", [32, 64])
def test_dinov2_maps_are_the_outputs_of_its_blocks(dino_path, image_size):
    net = freeze(DINOv2(path=dino_path, image_size=image_size))
    assert net.blocks == [1, 2, 3, 4]
    assert net.name == "DINOv2 tiny-dinov2"
    outputs = []
    for layer in net.model.encoder.layer:
        layer.register_forward_hook(lambda m, i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    maps, grid = net.maps(x), image_size // 8
    assert [tuple(m.shape) for m in maps] == [(2, 32, grid, grid)] * 4
    for block, m in zip(net.blocks, maps, strict=True):
        torch.testing.assert_close(m[:, :, 1, 2], outputs[block][:, 1 + grid + 2])  # row 1, column 2
    features = net.features(x)
    torch.testing.assert_close(features, net.model.layernorm(outputs[-1])[:, 0])
    (features.square().sum() + sum(m.square().sum() for m in maps)).backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    assert all(p.grad is None for p in net.parameters())


def test_dinov2_as_a_trainable_encoder_reaches_every_trainable_weight(dino_path):
    discriminator = StructureDiscriminator(encoder=DINOv2(path=dino_path, image_size=32))
    discriminator.logits([torch.randn(4, 3, 8, 8)], Given(reference=[torch.randn(4, 3, 8, 8)])).sum().backward()
    assert all(p.grad is not None for p in discriminator.parameters() if p.requires_grad)


def test_a_file_without_weights_is_refused(tmp_path):
    (tmp_path / "text.th").write_text("not weights")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.th")
    for name in ("text.th", "other.th"):
        with pytest.raises(ValueError, match=f"{name}` holds no weights of a CIFAR-10 ResNet"):
            CifarResNet(path=str(tmp_path / name))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="`in_channels=1` of SmallConvNet, but the images have 3"):
        SmallConvNet(in_channels=1, pretrain="none")(torch.zeros(1, 3, 8, 8))


def test_dinov2_with_registers_is_its_own_network_and_its_maps_are_the_patches(tmp_path):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=8)
    torch.manual_seed(0)
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)).save_pretrained(tmp_path)
    net = freeze(DINOv2(path=str(tmp_path), image_size=32))
    assert type(net.model) is Dinov2WithRegistersModel
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    states = net.model(imagenet_input(images, 32), output_hidden_states=True).hidden_states
    assert states[-1].shape == (2, 1 + 3 + 16, 32)
    maps = net.maps(images)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 4)] * 2
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), states[-1][:, 4:])


def test_dinov2_whose_weights_do_not_fit_is_refused(dino_path, tmp_path):
    shutil.copytree(dino_path, tmp_path / "dino")
    file = tmp_path / "dino" / "model.safetensors"
    state = load_file(file)
    save_file(state | {"classifier.weight": torch.zeros(2, 2)}, file, {"format": "pt"})  # a head may follow
    DINOv2(path=str(tmp_path / "dino"), image_size=32)
    save_file(state | {"embeddings.register_tokens": torch.zeros(1, 4, 32)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="holds `embeddings.register_tokens`, which Dinov2Model does not have"):
        DINOv2(path=str(tmp_path / "dino"), image_size=32)
    del state["layernorm.weight"]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks `layernorm.weight`"):
        DINOv2(path=str(tmp_path / "dino"), image_size=32)


def test_a_resnet_whose_weights_do_not_fit_is_refused(tmp_path):
    torch.save({"state_dict": {"conv1.weight": torch.zeros(16, 3, 3, 3)}}, tmp_path / "few.th")
    with pytest.raises(ValueError, match="few.th` lacks `bn1.bias` and .* more weights$"):
        CifarResNet(path=str(tmp_path / "few.th"))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.th")
    with pytest.raises(ValueError, match="other.th` does not fit CifarResNet: size mismatch"):
        CifarResNet(path=str(tmp_path / "other.th"))


def test_dinov2_by_name_without_a_network_fails_at_once_and_the_way_it_names_works(tmp_path, monkeypatch):
    from sparring.cli.main import main

    monkeypatch.setattr("sparring.data.hub_access.hub_answers", lambda: False)
    started = time.monotonic()
    with pytest.raises(
        ValueError, match="facebook/none` is neither a folder .*, and the hub cannot be reached"
    ) as told:
        DINOv2(path="facebook/none")
    assert time.monotonic() - started < 10  # importing transformers is most of it
    assert "`sparring encoder DATA --out encoder.safetensors` and the class FileEncoder with" in str(told.value)
    encoder = str(tmp_path / "encoder.safetensors")
    assert main(["encoder", "digits", "--epochs", "1", "--out", encoder]) == 0
    base = ["fit", "diffusion", "--on", "tiny", "--out", str(tmp_path / "base"), "--trainer.steps=1"]
    assert main(base) == 0
    fit = ["fit", "adt", "--on", "tiny", "--init", str(tmp_path / "base"), "--out", str(tmp_path / "run")]
    fit += ["--trainer.steps=1"]
    fit += ["--method.discriminator.backbone=FileEncoder", f"--method.discriminator.backbone.path={encoder}"]
    assert main(fit) == 0


def test_dinov2_errors(dino_path, tmp_path):
    with pytest.raises(ValueError, match="image_size=30"):
        DINOv2(path=dino_path, image_size=30)
    with pytest.raises(ValueError, match="blocks 0 to 4"):
        DINOv2(path=dino_path, image_size=32, blocks=[1, 5])
    with pytest.raises(ValueError, match="no DINOv2 model"):
        DINOv2(path=str(tmp_path))
