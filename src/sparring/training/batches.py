"""Batches on their way to a step: read by workers, in the order of the seed, on the device."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparring.data import BatchStream, ImageData
from sparring.training.interrupt import ignore_stop_signals
from sparring.training.step import Micro


def micro_batches(
    data: ImageData, stream: BatchStream, device: torch.device, workers: int
) -> Generator[list[Micro], None, None]:
    """The micro-batches of each step, from the stream's first on, with their rows of the global batch.

    Args:
        data: what is read.
        stream: says which rows, for this process.
        device: where the batches go.
        workers: processes that read; 0 reads in this one. Their number does not change what is read.
    """
    loader: Any = DataLoader(
        data,
        batch_size=None,
        sampler=stream,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=ignore_stop_signals,
    )
    batches = iter(loader)
    try:
        while True:
            window = []
            for micro in range(stream.accumulation):
                images, condition = next(batches)
                if isinstance(condition, Tensor):
                    condition = condition.to(device, non_blocking=True)
                window.append((images.to(device, non_blocking=True), condition, stream.rows(micro)))
            yield window
    finally:
        del batches, loader  # shuts the workers down: collected later, as part of a reference cycle, they would not be


def worker_error(error: Exception) -> str | None:
    """What a worker's error says, in one line and without its traceback; None if it was no worker's.

    torch reports a killed worker from a signal handler, so that the error can surface anywhere.
    """
    text = str(error)
    if text.startswith("Caught ValueError in DataLoader worker"):
        return text.splitlines()[-1].removeprefix("ValueError: ")
    if text.startswith("DataLoader worker (pid"):
        return f"`data_workers`: {' '.join(text.split()).rstrip('. ')}; is there enough memory? Use fewer workers"
    return None
