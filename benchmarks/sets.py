"""The data sets of the experiments: training images, the baseline that arms start from, what is measured against."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparring.data import Digits, HubData, ImageData, StoredImages

Plan = list[tuple[str, int]]
"""Schedulers and network calls to sample with."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the experiments.

    Args:
        data: flags of `sparring fit` that name the training images.
        baseline: recipe and flags of the model that every arm starts from.
        shared: flags of every arm: optimiser, average, batch, so that arms differ in the method alone.
        steps: updates of an arm.
        n: images that are sampled for a number.
        plan: schedulers and network calls.
        real: gives the training images, and those of the split that is measured against.
        channels: of the images.
        num_classes: None without labels.
        first: flags that name other training images, for the baseline alone; None: the same.
        resnets: measure in the features of ResNet-56 and of the judge's ResNet-20, for images without labels.
    """

    data: Callable[[Path], list[str]]
    baseline: list[str]
    shared: list[str]
    steps: int
    n: int
    plan: Plan
    real: Callable[[Path, str], tuple[ImageData, ImageData]]
    channels: int = 1
    num_classes: int | None = 10
    first: Callable[[Path], list[str]] | None = None
    resnets: bool = False


TOPS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
REST = ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def fashion(classes: list[str] | None = None, **shape: int) -> dict[str, Any]:
    """Fashion-MNIST, of the classes: 10,000 training images; a fifth of the test images is for choosing."""
    settings: dict[str, Any] = shape | ({} if classes is None else {"where": {"label": classes}})

    def data(folder: Path) -> list[str]:
        flags = [f"--data.{name}={json.dumps(value)}" for name, value in settings.items()]
        return [f"--data={folder / 'fashion_mnist-train-10k.parquet'}", *flags]

    def real(folder: Path, split: str) -> tuple[ImageData, ImageData]:
        train = HubData(str(folder / "fashion_mnist-train-10k.parquet"), **settings)
        return train, part(HubData(str(folder / "fashion_mnist-test.parquet"), **settings), split)

    return {"data": data, "real": real}


def part(test: ImageData, split: str) -> ImageData:
    """A fifth of a test set for choosing ("validation"), half of it for the final numbers ("holdout")."""
    rows = slice(0, len(test) // 5) if split == "validation" else slice(len(test) // 5, len(test) * 7 // 10)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[rows].tolist()
    images, labels = test[order]
    return StoredImages(images, labels, name=f"{test.name}:{split}", num_classes=test.num_classes)


def small_unet(size: int, channels: int, widths: Sequence[int]) -> list[str]:
    """Flags that make the network of the recipe another one."""
    net = "--denoiser.net.init_args"
    down, up = json.dumps(["DownBlock2D"] * len(widths)), json.dumps(["UpBlock2D"] * len(widths))
    return [
        *(f"{net}.sample_size={size}", f"{net}.in_channels={channels}", f"{net}.out_channels={channels}"),
        *(f"{net}.block_out_channels={json.dumps(list(widths))}", f"{net}.down_block_types={down}"),
        f"{net}.up_block_types={up}",
    ]


CALLS = (2, 3, 5, 10, 20, 50)


def digits(*baseline: str) -> DataSet:
    """scikit-learn's digits, with flags that make the baseline another one."""
    return DataSet(
        data=lambda _: ["--data=digits"],
        baseline=["diffusion", "--on", "digits", *baseline],
        shared=[],
        steps=300,
        n=1000,
        plan=[(scheduler, calls) for scheduler in ("ddim", "dpm") for calls in CALLS],
        real=lambda _, split: (Digits(), Digits("validation" if split == "validation" else "holdout")),
    )


def fashion16(classes: list[str] | None = None, *, lr: float = 2e-4, ema: float = 0.995, **further: Any) -> DataSet:
    """Fashion-MNIST at 16x16, a network of 263 k parameters; `lr` and `ema` are those of the arms."""
    return DataSet(
        **fashion(classes, size=16),
        **further,
        baseline=[
            *("diffusion", "--on", "digits"),
            *small_unet(16, 1, (16, 32, 32)),
            *("--trainer.steps=4000", "--trainer.ema_decay=0.999", "--trainer.precision=bf16"),
        ],
        shared=["--trainer.precision=bf16", f"--trainer.generator_optimizer.lr={lr}", f"--trainer.ema_decay={ema}"],
        steps=600,
        n=1000,
        plan=[(scheduler, calls) for scheduler in ("ddim", "dpm") for calls in CALLS[1:]],
    )


RESNET20, RESNET56 = "resnet20-12fca82f.th", "resnet56-4bfd9763.th"  # CIFAR-10 weights


def emoji(file: str, **columns: str | dict[str, str]) -> dict[str, Any]:
    """Emoji at 32x32; a quarter is held out, all variants of an emoji on the same side."""
    split = {"holdout_share": 0.25, "group_column": "codepoints", "group_separator": "-"}
    settings: dict[str, Any] = {"size": 32, **split, **columns}

    def data(folder: Path) -> list[str]:
        flags = [
            f"--data.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in settings.items()
        ]
        return [f"--data={folder / file}", *flags]

    def real(folder: Path, split: str) -> tuple[ImageData, ImageData]:
        train = HubData(str(folder / file), **settings)
        held = train.holdout()
        assert held is not None
        return train, held

    return {"data": data, "real": real, "channels": 3, "num_classes": None, "resnets": True}


def at_32(channels: int, steps: int) -> list[str]:
    """The baseline at 32x32: 0.64 M parameters."""
    size = small_unet(32, channels, (16, 32, 64))
    settings = [f"--trainer.steps={steps}", "--trainer.ema_decay=0.999", "--trainer.precision=bf16"]
    return ["diffusion", "--on", "digits", *size, *settings, "--trainer.batch_size=64"]


SMALL_BATCH = ["--trainer.batch_size=64", "--trainer.precision=bf16", "--trainer.generator_optimizer.lr=2e-4"]

SETS: dict[str, DataSet] = {
    "digits": digits(),
    "digits-short": digits("--trainer.steps=500"),  # the denoiser has learned a quarter as long
    "digits-small": digits("--denoiser.net.init_args.block_out_channels=[8,16]"),  # 41 k parameters
    "digits-classes": digits("--denoiser.net.init_args.num_class_embeds=10"),  # class-conditional
    "digits-eps": digits("--denoiser.prediction=eps", "--denoiser.process.init_args.schedule=linear"),
    "fashion16": fashion16(),
    "fashion16-moved": fashion16(REST, lr=1e-3, ema=0.99, first=fashion(TOPS, size=16)["data"]),
    "fashion32": DataSet(
        **fashion(pad=2), baseline=at_32(1, 2500), shared=SMALL_BATCH, steps=300, n=1000, plan=[("dpm", 5), ("dpm", 10)]
    ),
    "emoji32": DataSet(
        **emoji("noto_emoji-64.parquet"),
        baseline=at_32(3, 2500),
        shared=SMALL_BATCH,
        steps=300,
        n=1000,
        plan=[("dpm", 5), ("dpm", 10)],
    ),
    "emoji32-moved": DataSet(  # from the drawings of 2025 to those of 2017
        **emoji("noto_emoji_pairs-64.parquet", image_column="source"),
        first=emoji("noto_emoji-64.parquet", where={"kind": "plain"})["data"],
        baseline=at_32(3, 1500),
        shared=[*SMALL_BATCH, "--trainer.generator_optimizer.lr=1e-3", "--trainer.ema_decay=0.99"],
        steps=400,
        n=1000,
        plan=[("ddim", 10), ("dpm", 5), ("dpm", 10)],
    ),
}
