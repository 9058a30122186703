"""EfficientNet-Lite0: the package's own numbers, a picture it knows, its maps, and what it says when it is missing."""

import pytest
import torch

from sparring.backbones import EfficientNetLite

pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `imagenet` is not installed")


@pytest.fixture(scope="module")
def net():
    return EfficientNetLite()


def test_logits_are_those_of_the_package(net):
    """The package takes what torchvision calls normalised images; ours come in [-1, 1]."""
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = net.net((images - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(net.logits(images * 2 - 1), expected)
    assert expected.std() > 0.3


@pytest.mark.parametrize(("number", "class_", "within"), [(0, 698, 3), (1, 985, 1)], ids=["palace", "daisy"])
def test_it_tells_photographs_by_their_class(net, number, class_, within):
    """scikit-learn's two photographs: the Summer Palace in Beijing, and a flower with the petals of a daisy."""
    from sklearn.datasets import load_sample_images

    photograph = torch.tensor(load_sample_images().images[number]).permute(2, 0, 1)[None, :, :, 100:527]
    with torch.no_grad():
        best = net.logits(photograph.float() / 127.5 - 1).topk(within).indices[0].tolist()
    assert class_ in best


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (224, 3)])
def test_maps_stand_at_four_strides_and_gradient_reaches_the_images(size, channels):
    net = EfficientNetLite(image_size=64).train()
    assert not any(module.training for module in net.modules())
    images = (
        torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1)).mul(2).sub(1).requires_grad_()
    )
    maps = net.maps(images)
    assert [tuple(m.shape) for m in maps] == [(2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2)]
    assert [m.shape[1] for m in maps] == list(net.channels)
    (net.features(images).sum() + sum(m.square().sum() for m in maps)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    torch.testing.assert_close(net.features(images[1:]), net.features(images)[1:], rtol=1e-4, atol=1e-5)


def test_maps_are_the_last_of_their_size(net):
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, i, out: seen.append(out)) for block in net.net._blocks]
    maps = net.maps(torch.zeros(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    for index, found in zip((2, 4, 10, 15), maps, strict=True):
        assert found is seen[index]


def test_a_missing_package_and_an_odd_size(monkeypatch):
    with pytest.raises(ValueError, match="`image_size=50`.*multiple of 32"):
        EfficientNetLite(image_size=50)
    monkeypatch.setattr(EfficientNetLite, "installed", staticmethod(lambda: False))
    with pytest.raises(ValueError, match=r"pip install 'sparring\[imagenet\]'"):
        EfficientNetLite()
