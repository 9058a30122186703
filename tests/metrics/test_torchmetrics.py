"""Equality with torchmetrics' Frechet and kernel distances on one network, with and without a resize."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sparring.backbones import Wrapped
from sparring.metrics import FeatureStream
from sparring.metrics.frechet import frechet_of_features
from sparring.metrics.kernel import kernel_distance

fid = pytest.importorskip("torchmetrics.image.fid")
kid = pytest.importorskip("torchmetrics.image.kid")


class _Net(nn.Module):
    """Random convolutions at 32 px, with its own antialiased resize; rows do not meet."""

    num_features = 24

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 12, 3, 2, 1), nn.SiLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
            )

    def forward(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        return 20 * self.body(images).flatten(1)  # far enough from 0 for torchmetrics' single precision


class _OfBytes(nn.Module):
    """The same network for torchmetrics, which hands over uint8."""

    num_features = 24

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.float() / 127.5 - 1)


@pytest.mark.parametrize(("size", "n"), [(32, 256), (64, 128), (299, 40)])
def test_equal_to_torchmetrics(size: int, n: int) -> None:
    generator = torch.Generator().manual_seed(size)
    real = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    smooth = F.avg_pool2d(torch.rand(n, 3, size, size, generator=generator), 5, 1, 2)
    fake = (smooth * 200).round().to(torch.uint8)
    net = _Net().eval()

    frechet = fid.FrechetInceptionDistance(_OfBytes(net), antialias=False)
    kernel = kid.KernelInceptionDistance(_OfBytes(net), subsets=1, subset_size=n)
    for metric in (frechet, kernel):
        for images, is_real in ((real, True), (fake, False)):
            with torch.no_grad():
                for batch in images.split(50):
                    metric.update(batch, real=is_real)
    theirs = {"frechet": float(frechet.compute()), "kernel": float(kernel.compute()[0])}

    features = Wrapped(net=net, name="random convolutions", resize="bilinear, antialiased, to 32")
    streams = []
    for images in (fake, real):
        streams.append(FeatureStream(features))
        for batch in images.split(64):
            streams[-1].update(batch.float() / 127.5 - 1)
    ours = streams[0].distances(streams[1])
    assert ours["frechet"] == pytest.approx(theirs["frechet"], rel=1e-4)
    assert ours["kernel"] == pytest.approx(theirs["kernel"], rel=1e-4)


def test_equal_to_torchmetrics_in_many_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 300, generator=generator)
    y = torch.randn(400, 300, generator=generator) * 1.1 + 0.2
    identity = nn.Identity()
    identity.num_features = 300  # type: ignore[assignment]
    frechet = fid.FrechetInceptionDistance(identity)
    kernel = kid.KernelInceptionDistance(identity, subsets=1, subset_size=400)
    for metric in (frechet, kernel):
        metric.update(y, real=True)
        metric.update(x, real=False)
    assert frechet_of_features(x, y) == pytest.approx(float(frechet.compute()), rel=1e-4)
    assert kernel_distance(x, y).value == pytest.approx(float(kernel.compute()[0]), rel=1e-4)
