"""The order of training: every row once per epoch, whole however it is cut, the same for any number of workers."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sparring.data import BatchStream, Digits, Indices, StoredImages

sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(n=sizes, batch_size=sizes, seed=st.integers(0, 2**31), epochs=st.integers(1, 4))
def test_each_epoch_holds_every_row_once(n, batch_size, seed, epochs):
    stream = BatchStream(n, batch_size, seed)
    order = [row for step in range(-(-n * epochs // batch_size)) for row in stream.batch(step)]
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(
    n=sizes,
    b=st.integers(1, 5),
    world=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 30),
)
def test_processes_and_micro_batches_together_are_the_global_batch_in_order(n, b, world, accumulation, seed, start):
    size = b * world * accumulation
    whole = BatchStream(n, size, seed)
    streams = [
        BatchStream(n, size, seed, start, rank=rank, world=world, accumulation=accumulation) for rank in range(world)
    ]
    iterators = [iter(stream) for stream in streams]
    for step in range(start, start + 3):
        rows, coins = [], []
        for micro in range(accumulation):
            for rank in range(world):
                indices = next(iterators[rank])
                part = streams[rank].rows(micro)
                assert part == slice((micro * world + rank) * b, (micro * world + rank + 1) * b)
                rows += indices
                coins += indices.mirrored
        assert rows == whole.batch(step)
        assert coins == whole.batch(step).mirrored


def test_a_stream_starts_anywhere_and_again():
    stream = BatchStream(10, 4, seed=7)
    batches = [list(batch) for batch in islice(stream, 12)]
    for start in range(12):
        resumed = BatchStream(10, 4, seed=7, start=start)
        assert [list(batch) for batch in islice(resumed, 12 - start)] == batches[start:]
    assert [list(batch) for batch in islice(stream, 12)] == batches
    assert [list(stream.batch(step)) for step in reversed(range(12))] == batches[::-1]


def test_seed_and_epoch_change_the_order():
    assert list(BatchStream(100, 100, 0).batch(0)) != list(BatchStream(100, 100, 1).batch(0))
    stream = BatchStream(100, 100, 0)
    assert list(stream.batch(0)) != list(stream.batch(1))


def test_the_number_of_workers_changes_nothing():
    images = torch.arange(4 * 9, dtype=torch.uint8).reshape(9, 1, 1, 4)
    data = StoredImages(images, torch.arange(9), flip=True)
    expected = [data[indices] for indices in islice(BatchStream(9, 4, seed=1), 6)]
    for workers in (0, 1, 2):
        loader = DataLoader(data, sampler=BatchStream(9, 4, seed=1), batch_size=None, num_workers=workers)
        for (images, labels), (images_expected, labels_expected) in zip(islice(loader, 6), expected, strict=True):
            torch.testing.assert_close(images, images_expected, rtol=0, atol=0)
            assert torch.equal(labels, labels_expected)


def test_without_labels_the_loader_gives_none():
    loader = DataLoader(StoredImages(torch.zeros(5, 1, 2, 2)), sampler=BatchStream(5, 2, 0), batch_size=None)
    images, labels = next(iter(loader))
    assert images.shape == (2, 1, 2, 2)
    assert labels is None


def test_half_of_the_images_of_a_stream_are_flipped_and_none_in_evaluation():
    image = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    data = StoredImages(image.repeat(500, 1, 1, 1), flip=True)
    batches = [BatchStream(500, 500, seed=0).batch(step) for step in range(4)]
    for indices in batches:
        turned = data[indices][0][:, 0, 0, 0] == 1
        assert turned.tolist() == indices.mirrored
        assert 0.4 < turned.float().mean() < 0.6
    assert len({tuple(indices.mirrored) for indices in batches}) == 4
    assert (data.images()[:, 0, 0, 0] == -1).all()
    assert (data[list(batches[0])][0][:, 0, 0, 0] == -1).all()
    steady = StoredImages(image.repeat(500, 1, 1, 1))
    assert (steady[batches[0]][0][:, 0, 0, 0] == -1).all()


def test_indices_are_plain_lists_for_other_data_sets():
    indices = BatchStream(10, 5, 0).batch(0)
    assert isinstance(indices, Indices)
    assert torch.arange(10)[indices].tolist() == list(indices)


def test_the_stream_fits_the_digits():
    data = Digits("validation")
    labels = torch.cat([data[indices][1] for indices in islice(BatchStream(len(data), 99, 0), 3)])
    assert torch.equal(labels.bincount(), data.labels().bincount())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "at least one image"),
        ({"batch_size": 0}, "`batch_size=0` must be at least 1"),
        (
            {"batch_size": 10, "world": 2, "accumulation": 2},
            "multiple of 4 .processes 2 x accumulation 2.: take",
        ),
        ({"rank": 1}, "`rank=1` must lie in 0..0"),
        ({"start": -1}, "`start=-1` must not be negative"),
        ({"world": 0}, "`world=0`"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BatchStream(**{"order": 10, "batch_size": 4, "seed": 0} | settings)
