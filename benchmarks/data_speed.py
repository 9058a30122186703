"""Images per second of every kind of data set, against what a training step needs, and how long the trainer waits.

    python benchmarks/data_speed.py
    python benchmarks/data_speed.py --smoke

Made-up 32x32 images are written as a folder of PNG files, a parquet file and a tar file. Sets of up to 512 MB are
decoded when they are opened and then lie in memory; "each time" is what larger sets do: decode every batch. Shards are
read and decoded as they come up. The step is the one of the setting grey32, in bf16; "waits" is the part of the
trainer's time in which it has no batch yet. With the process clock, rows with workers say what is left to the trainer.
"""

import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow
from timing import arguments, in_turns, looped, machine, note, publish, table
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from trainers import GREY32, trainer_of

from sparring.data import BatchStream, HubData, ImageData, ImageFolder, StoredImages, StreamData, decode
from sparring.training import Trainer


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__,
        repeats=7,
        argv=argv,
        n=(4096, "images of each data set"),
        batch=(64, "images per step"),
        steps=(8, "training steps per measurement"),
        workers=(1, "processes that decode, in the rows that have them"),
    )
    started_on = machine()
    if args.smoke:
        args.repeats, args.n, args.batch, args.steps = 1, 16, 4, 1
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        images = smooth_images(args.n, 32)
        write_files(images, Path(folder))
        sources: dict[str, Callable[[], ImageData]] = {
            "memory": lambda: StoredImages(images),
            "imagefolder": lambda: ImageFolder(f"{folder}/images"),
            "imagefolder, each time": lambda: each_time(lambda: ImageFolder(f"{folder}/images")),
            "parquet": lambda: HubData(f"{folder}/images.parquet"),
            "parquet, each time": lambda: each_time(lambda: HubData(f"{folder}/images.parquet")),
            "parquet shards": lambda: StreamData(f"{folder}/images.parquet", channels=1),
            "tar shards": lambda: StreamData(f"{folder}/images.tar", channels=1),
        }
        opened: dict[str, tuple[ImageData, float]] = {}
        for name, make in sources.items():
            started = time.perf_counter()
            data = make()
            opened[name] = data, time.perf_counter() - started
        calls = {}
        for name, (data, _) in opened.items():
            calls[name] = looped(reader(data, args.batch, 0))
            if "each time" in name or "shards" in name:
                calls[f"{name}, {args.workers} worker(s)"] = looped(reader(data, args.batch, args.workers))
        note("reading …")
        times = in_turns(calls, args.repeats, args.clock, inner=max(1, args.n // args.batch))
        method = trainer_of("diffusion", Path(folder), opened["memory"][0], setting=GREY32).method
        rows: list[list[object]] = []
        for name in calls:
            note(f"training from {name} …")
            source = name.split(f", {args.workers} worker")[0]
            data, seconds = opened[source]
            workers = args.workers if source != name else 0
            settings = dict(out=folder, batch_size=args.batch, precision="bf16", data_workers=workers)
            trainer = Trainer(method, data, steps=10**6, tracker=None, **settings)
            need, waits = training(trainer, args.repeats, args.steps)
            speed = args.batch / median(times[name])
            rows.append([name, f"{seconds:.2f}", f"{speed:,.0f}", f"{need:,.0f}", f"{100 * waits:.1f} %"])
    header = [f"{args.n:,} images 32x32, batch {args.batch}", "seconds to open", "images per second, read"]
    publish("data_speed", [table([*header, "images per second, trained", "waits"], rows)], args, started_on)


def smooth_images(n: int, size: int) -> Tensor:
    """Grey uint8 images that compress about as drawings and photographs do."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 1, size // 4, size // 4, generator=generator)
    return (interpolate(coarse, (size, size), mode="bilinear") * 255).to(torch.uint8)


def write_files(images: Tensor, folder: Path) -> None:
    """images/NNNNN.png, images.parquet and images.tar."""
    (folder / "images").mkdir()
    encoded = []
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Pillow.fromarray(image[0].numpy()).save(buffer, "png")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
        (folder / "images" / f"{i:05d}.png").write_bytes(buffer.getvalue())
    features = Features({"image": Image()})
    Dataset.from_dict({"image": encoded}, features=features).to_parquet(folder / "images.parquet")
    with tarfile.open(folder / "images.tar", "w") as tar:
        tar.add(folder / "images", "images")


def each_time(make: Callable[[], ImageData]) -> ImageData:
    """The data set as if it were too large to be kept decoded."""
    limit, decode.STORED_BYTES = decode.STORED_BYTES, 0
    try:
        return make()
    finally:
        decode.STORED_BYTES = limit


def reader(data: ImageData, batch: int, workers: int) -> Callable[[], object]:
    """Fetches the next batch in the trainer's order."""
    stream = BatchStream(data.order(), batch, 0)
    batches = iter(DataLoader(data, batch_size=None, sampler=stream, num_workers=workers))
    return lambda: next(batches)


def training(trainer: Trainer, repeats: int, steps: int) -> tuple[float, float]:
    """Images per second of training, and the part of the time in which the trainer waits for a batch."""
    windows = trainer.micro_batches()
    trainer.train_step(next(windows))
    speeds, waits = [], []
    for _ in range(repeats):
        started, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            before = time.perf_counter()
            window = next(windows)
            waited += time.perf_counter() - before
            trainer.train_step(window)
        seconds = time.perf_counter() - started
        speeds.append(trainer.batch_size * steps / seconds)
        waits.append(waited / seconds)
    windows.close()
    return median(speeds), median(waits)


if __name__ == "__main__":
    main()
