"""Batches on their way to a step: read by workers, in the order of the seed, on the device."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparring.data import BatchStream, ImageData
from sparring.data.order import Indices
from sparring.training.interrupt import ignore_stop_signals


@dataclass
class Micro:
    """One micro-batch on the device: what a data set gives, and which rows of the global batch it is."""

    images: Tensor
    condition: Tensor | list[str] | None
    rows: slice
    source: Tensor | None = None
    index: Tensor | None = None


class Rows(Dataset):
    """What the workers read of a list of indices: images, labels or captions, sources, and the indices themselves.

    Args:
        data: the data set.
    """

    def __init__(self, data: ImageData):
        self.data = data

    def __getitem__(self, indices: Indices) -> tuple[Tensor, Tensor | list[str] | None, Tensor | None, Tensor]:
        images, condition = self.data[indices]
        source = None if self.data.source_shape is None else self.data.sources(indices)
        return images, condition, source, torch.tensor(indices, dtype=torch.int64)


def micro_batches(
    data: ImageData, stream: BatchStream, device: torch.device, workers: int, batches: int = 1
) -> Generator[list[Micro], None, None]:
    """The micro-batches of each step, from the stream's first on.

    Args:
        data: what is read.
        stream: says which rows, for this process.
        device: where the batches go.
        workers: processes that read; 0 reads in this one. Their number does not change what is read.
        batches: global batches of a step, one after the other.
    """
    loader: Any = DataLoader(
        Rows(data),
        batch_size=None,
        sampler=stream,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=ignore_stop_signals,
    )
    read = iter(loader)

    def there(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    try:
        while True:
            window = []
            for micro in [*range(stream.accumulation)] * batches:
                images, condition, source, index = next(read)
                window.append(Micro(there(images), there(condition), stream.rows(micro), there(source), there(index)))
            yield window
    finally:
        del read, loader  # shuts the workers down: collected later, as part of a reference cycle, they would not be


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
