"""Feature networks: shapes, names, fingerprints, checks, the classifier and its cache."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.backbones import CifarResNet, DINOv2, Inception, Pixels, Points, SmallConvNet, Standardised, Wrapped
from sparring.metrics import extract, learned_features
from sparring.metrics.cache import of_backbone


def _images(n: int = 12, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _stripes(n: int) -> tuple[Tensor, Tensor]:
    """Two classes that a small net tells apart at once: light rows, light columns."""
    labels = torch.arange(n) % 2
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
    images[labels == 0, :, ::2] += 1
    images[labels == 1, :, :, ::2] += 1
    return images, labels


def test_pixels() -> None:
    images = _images(channels=3)
    pooled = Pixels(pool=4)(images)
    assert pooled.shape == (12, 48)
    assert pooled[0, 0] == pytest.approx(float(images[0, 0, :2, :2].mean()))
    assert torch.equal(Pixels(pool=None)(images), images.flatten(1))
    assert (Pixels().name, Pixels(pool=None).name) == ("pixels pooled to 4x4", "pixels")
    with pytest.raises(ValueError, match="pool=0"):
        Pixels(pool=0)


def test_any_module_and_its_fingerprint() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(0.5))
    features = Wrapped(net=net, name="linear")
    first = extract(features, _images(), batch_size=5)
    assert first.shape == (12, 5)
    torch.testing.assert_close(extract(features, _images().split(4)), first)
    assert not first.requires_grad
    print_ = of_backbone(features)
    assert of_backbone(Wrapped(net=net, name="linear")) == print_
    assert of_backbone(Wrapped(net=net, name="other")) != print_
    with torch.no_grad():
        net[1].bias[0] += 1e-6  # type: ignore[operator]
    assert of_backbone(features) != print_
    with pytest.raises(ValueError, match=r"expected \[B, d\]"):
        extract(Wrapped(net=nn.Identity(), name="maps"), _images())


def test_networks_in_training_mode_are_measured_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    assert torch.equal(extract(net, _images()), _images().flatten(1))
    assert net.training


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: (x * 127 + 128).to(torch.uint8), "uint8"),
        (lambda x: (x + 1) * 127.5, "divide by 127.5"),
        (lambda x: x[0], "expected float"),
        (lambda x: x.clone().fill_(float("nan")), "NaN"),
        (lambda x: x[:0], "empty|no images"),
    ],
)
def test_images_that_are_none(spoil: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract(Pixels(), spoil(_images()))


def test_values_beyond_the_range_are_clamped() -> None:
    assert torch.equal(extract(Pixels(), _images() * 3), extract(Pixels(), (_images() * 3).clamp(-1, 1)))


def test_classifier(tmp_path: Path) -> None:
    images, labels = _stripes(200)
    holdout = _stripes(60)

    def fit(seed: int = 3) -> Standardised:
        return learned_features(images, labels, holdout=holdout, cache=tmp_path, widths=(8, 6), epochs=4, seed=seed)

    features = fit()
    assert features.accuracy is not None
    assert features.accuracy > 0.9
    assert features.name == "classifier 8-6 (seed 3)"
    rows = extract(features, images)
    torch.testing.assert_close(rows.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(6), atol=1e-4, rtol=0)
    same, logits = features.features_and_logits(images)
    assert torch.equal(same, features(images))
    assert logits is not None
    torch.testing.assert_close(logits, features.logits(images))

    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = fit()
    assert file.stat().st_mtime_ns == written
    assert of_backbone(again) == of_backbone(features)
    assert again.accuracy == features.accuracy
    assert of_backbone(fit(seed=4)) != of_backbone(features)
    assert len(list(tmp_path.iterdir())) == 2
    file.write_bytes(b"half")
    with pytest.raises(ValueError, match="delete the file"):
        fit()


def test_cifar_resnet(shared: Path) -> None:
    features = CifarResNet(path=str(shared / "weights" / "resnet20-12fca82f.th"))
    rows = extract(features, _images(4, 3, 40))
    assert rows.shape == (4, 64)
    assert (features.name, features.resize) == ("cifar-resnet20", "bilinear, antialiased, to 32")


def test_dinov2(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path / "tiny")
    features = DINOv2(path=str(tmp_path / "tiny"), image_size=28, interpolation="bicubic")
    rows = extract(features, _images(3, 3, 40), batch_size=2)
    assert rows.shape == (3, 12)
    assert (features.name, features.resize) == ("DINOv2 tiny", "bicubic, antialiased, to 28")
    resized = nn.functional.interpolate(_images(3, 3, 40), (28, 28), mode="bicubic", antialias=True)
    torch.testing.assert_close(extract(features, resized), rows)


def test_inception_is_an_extra() -> None:
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"\[eval\]"):
            Inception()
    else:
        pytest.skip("torch-fidelity is installed; its weights are a download")


def test_points_are_their_own_features() -> None:
    points = _images(5, 2, 1)
    assert torch.equal(extract(Points(), points), points.flatten(1))
    with pytest.raises(ValueError, match="points of one pixel"):
        extract(Points(), _images())


def test_what_a_backbone_does_not_have_it_says() -> None:
    with pytest.raises(ValueError, match="pixels has no feature maps"):
        Pixels(pool=None).maps(_images())
    with pytest.raises(ValueError, match="points names no classes"):
        Points().logits(_images(5, 2, 1))
    features, logits = SmallConvNet(in_channels=1, num_classes=3, pretrain="self-supervised").features_and_logits(
        _images()
    )
    assert features.shape == (12, 64)
    assert logits is None  # its classes were never learned
