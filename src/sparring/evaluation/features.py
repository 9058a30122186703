"""The feature network that an evaluation measures in: by its name, or the one that suits the data."""

import os
from pathlib import Path

from sparring.backbones import (
    Backbone,
    CifarResNet,
    DINOv2,
    EfficientNetLite,
    FileEncoder,
    Inception,
    Pixels,
    Points,
    Standardised,
)
from sparring.data import ImageData
from sparring.metrics import learned_features


def cache_folder() -> Path:
    """Where trained feature networks and reference statistics are kept: $SPARRING_CACHE, or ~/.cache/sparring."""
    return Path(os.environ.get("SPARRING_CACHE", Path.home() / ".cache" / "sparring"))


def default_features(reference: ImageData, train: ImageData | None) -> str:
    """ "points" for points; "values" for what is no picture; "imagenet" for colour images, if it is installed; else a
    network learned from the data: "self-supervised" when the images trained on are known and have no labels, and
    "classifier"."""
    channels, height, width = reference.image_shape
    if (height, width) == (1, 1):
        return "points"
    if not reference.pictures:
        return "values"
    if channels == 3 and EfficientNetLite.installed():
        return "imagenet"
    return "self-supervised" if train is not None and train.num_classes is None else "classifier"


def feature_network(name: str, reference: ImageData, train: ImageData | None, seed: int | None = None) -> Backbone:
    """The features of that name.

    Args:
        name: "imagenet" (EfficientNet-Lite0), "classifier" (trained on the training images), "self-supervised" (on the
            same without their labels), "pixels" (means over a grid of 4x4), "values" (all pixels), "points",
            "inception", a file of `sparring encoder`, a ResNet file (.th) or a DINOv2 folder.
        reference: Images that are measured against.
        train: Images that were trained on, if they are known.
        seed: Of the networks that are trained; None: theirs (see `learned_features`).

    Raises:
        ValueError: Unknown, or no (labelled) training images for features that are trained.
    """
    if name == "imagenet":
        return EfficientNetLite(image_size=128 if max(reference.image_shape[1:]) <= 64 else 224)
    if name == "pixels":
        return Pixels()
    if name == "values":
        return Pixels(pool=None)
    if name == "points":
        return Points()
    if name == "inception":
        return Inception()
    if name == "classifier":
        labels = None if train is None else train.labels()
        if train is None or labels is None:
            raise ValueError(
                "`features=classifier` needs labelled training images: give --train DATA, or --features pixels"
            )
        held = reference.labels()
        holdout = None if held is None else (reference.images(), held)
        return learned_features(train.images(), labels, holdout=holdout, cache=cache_folder(), seed=seed)
    if name == "self-supervised":
        if train is None:
            raise ValueError(
                "`features=self-supervised` needs training images: give --train DATA, or --features pixels"
            )
        return learned_features(train.images(), cache=cache_folder(), seed=seed)
    if name.endswith(".safetensors"):
        net = FileEncoder(path=name)
        called = f"{net.name} of {Path(name).name}"
        return Standardised(net=net, mean=net.mean, std=net.std, accuracy=net.accuracy, name=called)
    if name.endswith(".th"):
        return CifarResNet(path=name)
    if Path(name).is_dir():
        return DINOv2(path=name, interpolation="bicubic")
    raise ValueError(
        f"`features={name}` is none of imagenet, classifier, self-supervised, pixels, values, points, inception, a "
        "file of `sparring encoder` (.safetensors), a ResNet file (.th), a DINOv2 folder"
    )
