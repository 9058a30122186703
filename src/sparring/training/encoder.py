"""Trains a small encoder on images and keeps it in a file, for discriminators and for measuring."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import SmallConvNet, images_to_learn, save_encoder
from sparring.data import ImageData
from sparring.metrics import extract


@dataclass
class TrainedEncoder:
    """What `train_encoder` says of its work.

    Attributes:
        path: the file.
        images: number of images trained on.
        accuracy: what `SmallConvNet.accuracy` means, on a tenth of them that was held out.
        neighbours: share of the images of the data's holdout that have the label of most of their five nearest training
            images (by cosine of the features); None without labels or without a holdout.
        neighbours_untrained: the same for the network before training.
        seconds: of the training.
    """

    path: Path
    images: int
    accuracy: float
    neighbours: float | None
    neighbours_untrained: float | None
    seconds: float


def train_encoder(
    data: ImageData,
    out: Path,
    *,
    kind: Literal["self-supervised", "classifier"] = "self-supervised",
    widths: tuple[int, ...] = (32, 64, 64),
    epochs: int | None = None,
    seed: int = 0,
) -> TrainedEncoder:
    """Trains a `SmallConvNet` on (at most 20 000) images and writes it for `FileEncoder` and `--features`.

    Args:
        data: training images.
        out: the file (`.safetensors`).
        kind: with labels or without.
        widths: channels of the stages.
        epochs: passes over the images; None: see `SmallConvNet`.
        seed: of weights, order and views.

    Raises:
        ValueError: the file has another ending, is there already or cannot be written, or a classifier of images
            without labels.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"`out={out}` must end in .safetensors")
    if out.exists():
        raise ValueError(f"`out={out}` is there already: give another name, or delete it")
    if kind == "classifier" and data.num_classes is None:
        raise ValueError(f"`kind=classifier` needs labels and `{data.name}` has none: use self-supervised")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):  # before training, not after it
            pass
    except OSError as error:
        raise ValueError(f"`out={out}` cannot be written ({error.strerror}): give another place") from None
    images, labels = images_to_learn(data)
    net = SmallConvNet(
        in_channels=data.image_shape[0],
        widths=widths,
        num_classes=data.num_classes if kind == "classifier" else None,
        pretrain=kind,
        epochs=epochs,
        seed=seed,
    )
    holdout = data.holdout()
    held = None if holdout is None else holdout.labels()

    def share() -> float | None:
        if labels is None or holdout is None or held is None:
            return None
        features = [extract(net, x) for x in (images, holdout.images())]
        return neighbours_right(features[0], labels, features[1], held)

    before, start = share(), time.monotonic()
    net.prepare(images, labels)
    seconds = time.monotonic() - start
    save_encoder(net, out, images, data=data.name, num_images=len(images), accuracy=net.accuracy, epochs=epochs)
    return TrainedEncoder(out, len(images), net.accuracy, share(), before, seconds)


def neighbours_right(known: Tensor, labels: Tensor, asked: Tensor, truth: Tensor, k: int = 5) -> float:
    """Share of rows whose label is the most frequent one among their k nearest known rows by cosine.

    Args:
        known: [n,d] features with `labels` [n].
        asked: [m,d] features with the labels `truth` [m].
        k: number of neighbours.
    """
    known, right = F.normalize(known, dim=1), 0
    for rows, answers in zip(F.normalize(asked, dim=1).split(1000), truth.split(1000), strict=True):
        nearest = labels[(rows @ known.T).topk(min(k, len(known)), dim=1).indices]
        right += int((nearest.mode(1).values == answers).sum())
    return right / len(asked)
