"""What goes wrong with the data while a run trains is told in one line, whoever read it."""

import multiprocessing
import signal
import time

import pytest
import torch
from latent_runs import TinyGAN, points_gan
from latent_runs import trainer as latent_trainer
from PIL import Image
from small_runs import trainer

from sparring.data import BatchStream, Digits, ImageFolder, StoredImages, decode
from sparring.training.batches import micro_batches, worker_error
from sparring.training.interrupt import ignore_stop_signals

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_during_a_run_is_named_in_one_line(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(decode, "STORED_BYTES", 0)
    (tmp_path / "set").mkdir()
    for number in range(4):
        Image.new("L", (8, 8), number).save(tmp_path / "set" / f"{number}.png")
    run = trainer(tmp_path / "run", data=ImageFolder(str(tmp_path / "set")), batch_size=4, data_workers=workers)
    (tmp_path / "set" / "2.png").write_bytes(b"broken")
    before = multiprocessing.active_children()
    with pytest.raises(
        ValueError, match="^1 of 4 images of set cannot be used: 2.png .not an image.; repair"
    ) as caught:
        run.fit()
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "`data_workers`: DataLoader worker (pid",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "exited unexpectedly; is there enough memory",
        ),
        (RuntimeError("CUDA error"), None),
        (ValueError("no worker's"), None),
    ],
)
def test_a_worker_that_is_killed_is_told_in_one_line(error, told):
    assert (worker_error(error) is None) if told is None else (told in worker_error(error))


def test_workers_end_with_the_batches():
    before = multiprocessing.active_children()
    batches = micro_batches(Digits(), BatchStream(1000, 4, 0), CPU, 1)
    next(batches)
    assert len(multiprocessing.active_children()) == len(before) + 1
    batches.close()
    assert multiprocessing.active_children() == before


def listening(started) -> None:
    ignore_stop_signals(0)
    started.set()
    for _ in range(600):
        time.sleep(0.1)


def test_a_worker_outlives_one_sigterm_and_not_two():
    """The first may be meant for the trainer; the second is Python's, which then waits for the worker to end."""
    started = multiprocessing.Event()
    worker = multiprocessing.Process(target=listening, args=(started,))
    worker.start()
    assert started.wait(20)
    worker.terminate()
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == -signal.SIGTERM


def test_micro_batches_keep_their_labels_and_rows():
    stream = BatchStream(1000, 8, 0, accumulation=2)
    window = next(micro_batches(Digits(), stream, CPU, 0))
    assert [micro.rows for micro in window] == [slice(0, 4), slice(4, 8)]
    images, labels = Digits()[stream.batch(0)]
    assert torch.equal(torch.cat([micro.images for micro in window]), images)
    assert torch.equal(torch.cat([micro.condition for micro in window]), labels)
    assert torch.cat([micro.index for micro in window]).tolist() == list(stream.batch(0))
    assert [micro.source for micro in window] == [None, None]


@pytest.mark.parametrize("workers", [0, 1])
def test_sources_come_with_their_images_and_are_turned_with_them(workers):
    images = torch.rand(10, 1, 4, 4) * 2 - 1
    data = StoredImages(images, flip=True, sources=2 * images)
    window = next(micro_batches(data, BatchStream(10, 10, 0, accumulation=2), CPU, workers))
    for micro in window:
        assert torch.equal(micro.source, 2 * micro.images)
        for row, number in enumerate(micro.index.tolist()):
            ways = (images[number], images[number].flip(-1))
            assert any(torch.equal(micro.images[row], way) for way in ways)


def test_a_method_gets_sources_and_places_in_its_batch(tmp_path):
    class Sees(TinyGAN):
        def generator_loss(self, batch, rollout):
            self.seen = batch
            return super().generator_loss(batch, rollout)

    base = points_gan()
    points = torch.arange(64.0).view(32, 2, 1, 1) / 64
    method = Sees(base.generator, base.discriminator)
    latent_trainer(tmp_path / "run", method, StoredImages(points, sources=-points), steps=1).fit()
    assert torch.equal(method.seen.source, -method.seen.images)
    assert torch.equal(points[method.seen.index], method.seen.images)
    assert method.seen.index.dtype == torch.int64
