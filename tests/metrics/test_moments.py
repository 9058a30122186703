"""Streaming moments: equal to the whole, whatever the batches, the order, the merges and the processes."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.backbones import Pixels
from sparring.metrics import FeatureStream
from sparring.metrics.kernel import KernelMoments
from sparring.metrics.moments import Accumulator, Moments


def _close(a: Accumulator, b: Accumulator, atol: float = 1e-9) -> None:
    for name, value in a.state().items():
        torch.testing.assert_close(b.state()[name], value, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("kind", [Moments, KernelMoments])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_batches_merges_and_order_do_not_matter(kind: type[Accumulator], data: st.DataObject) -> None:
    n, dim = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64) * 3 + 1
    whole = kind.of(x)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = torch.tensor_split(x[torch.randperm(n)], cuts)
    merged = kind(dim)
    for part in parts:
        merged.merge(kind.of(part) if len(part) else kind(dim))
    streamed = kind(dim)
    for part in parts:
        streamed.update(part)
    assert whole.n == merged.n == streamed.n == n
    _close(whole, merged)
    _close(whole, streamed)


def test_moments_are_numpys() -> None:
    x = torch.randn(500, 7, dtype=torch.float64) @ torch.randn(7, 7, dtype=torch.float64) + 100
    moments = Moments.of(x, block=64)
    np.testing.assert_allclose(moments.mean.numpy(), x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.numpy().T), rtol=1e-9, atol=1e-12)


def test_a_far_mean_does_not_eat_the_covariance() -> None:
    x = torch.randn(2000, 3, dtype=torch.float64)
    far = Moments.of(x + 1e7, block=100)
    torch.testing.assert_close(far.covariance, Moments.of(x).covariance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [Moments, KernelMoments])
def test_a_copy_from_the_state_is_its_own(kind: type[Accumulator]) -> None:
    first = kind.of(torch.randn(9, 3))
    before = {name: value.clone() for name, value in first.state().items()}
    kind.from_state(first.state()).update(torch.randn(5, 3))
    for name, value in first.state().items():
        assert torch.equal(value, before[name])


def test_memory_does_not_grow_with_the_stream() -> None:
    def tensor_bytes() -> int:
        gc.collect()
        return sum(t.nbytes for t in gc.get_objects() if type(t) is torch.Tensor)

    stream = FeatureStream(Pixels(pool=4))
    stream.update(torch.zeros(64, 1, 8, 8))
    before = tensor_bytes()
    for _ in range(50):
        stream.update(torch.rand(64, 1, 8, 8) * 2 - 1)
    assert stream.n == 51 * 64
    assert tensor_bytes() <= before


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[rows, 3\]"):
        Moments(3).update(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments(3).merge(Moments(4))
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = Moments.of(torch.zeros(1, 3)).covariance


def test_a_stream_equals_the_kept_features() -> None:
    from sparring.metrics.frechet import frechet_of_features
    from sparring.metrics.kernel import kernel_distance

    x, y = torch.rand(300, 1, 8, 8) * 2 - 1, torch.rand(200, 1, 8, 8) - 1
    features, streams = Pixels(pool=4), []
    for images in (x, y):
        streams.append(FeatureStream(features))
        for batch in images.split(77):
            streams[-1].update(batch)
    distances = streams[0].distances(streams[1])
    assert distances["frechet"] == pytest.approx(frechet_of_features(features(x), features(y)), rel=1e-9)
    assert distances["kernel"] == pytest.approx(kernel_distance(features(x), features(y)).value, rel=1e-5)
    assert (distances["n"], distances["n_reference"], distances["features"]) == (300, 200, "pixels pooled to 4x4")


def test_a_wide_network_streams_without_the_kernel() -> None:
    stream = FeatureStream(Pixels(pool=None)).update(torch.rand(8, 3, 8, 8))
    assert stream.kernel_moments is None
    assert stream.distances(stream)["kernel"] is None


def _one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images = torch.load(f"{folder}/images.pt", weights_only=True)
    stream = FeatureStream(Pixels(pool=4))
    for batch in images[rank::2].split(10):
        stream.update(batch)
    total = stream.across_processes()
    assert total.moments is not None
    assert total.kernel_moments is not None
    torch.save([total.moments.state(), total.kernel_moments.state()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_sum_to_one(tmp_path: Path) -> None:
    images = torch.rand(51, 1, 8, 8) * 2 - 1
    torch.save(images, tmp_path / "images.pt")
    mp.spawn(_one_process, args=(str(tmp_path),), nprocs=2)
    features = Pixels(pool=4)(images)
    for rank in range(2):
        moments, kernel = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        _close(Moments.of(features), Moments.from_state(moments))
        _close(KernelMoments.of(features), KernelMoments.from_state(kernel), atol=1e-5)
