"""Backbones that are trained, for the evaluation only, on the training images of the data that is measured."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparring.backbones import SmallConvNet, Standardised
from sparring.metrics import cache as store
from sparring.metrics.classes import class_accuracy
from sparring.metrics.extract import extract
from sparring.networks.device import default_device

SEEDS = {"classifier": 1000, "self-supervised": 2000}


def learned_features(
    images: Tensor,
    labels: Tensor | None = None,
    *,
    holdout: tuple[Tensor, Tensor] | None = None,
    cache: str | Path | None = None,
    widths: Sequence[int] = (32, 64, 64),
    epochs: int | None = None,
    seed: int | None = None,
) -> Standardised:
    """The data's own small network: a classifier with labels (in seconds), self-supervised without (in minutes).

    Its features stand before the last layer, standardised over the training images; a classifier has logits too. It has
    5x5 kernels, another activation and another seed than a SmallConvNet in a discriminator, so that the two do not
    share their blind spots by construction; our choice.

    Args:
        images: Training images [n, C, H, W] in [-1, 1]; never the images that models are measured against.
        labels: Their labels [n] int64; None: it learns without (`fit_self_supervised`).
        holdout: Images and labels for a classifier's `accuracy`; without them it is taken on a tenth of the training
            images that is left out of the training.
        cache: Folder to keep the trained network in, found again by data and settings; None: none.
        widths: Channels of the stages; the last one is d.
        epochs: Passes over the data; None: 20 with labels, see `SmallConvNet` without.
        seed: Of the initial weights, the order of the data and the views; None: 1000 with labels, 2000 without. Any
            other is a part of the features' name.
    """
    kind = "self-supervised" if labels is None else "classifier"
    chosen = SEEDS[kind] if seed is None else seed
    if labels is not None and epochs is None:
        epochs = 20
    net = SmallConvNet(
        in_channels=images.shape[1],
        widths=widths,
        num_classes=None if labels is None else int(labels.max()) + 1,
        pretrain="self-supervised" if labels is None else "classifier",
        kernel_size=5,
        activation="leaky_relu",
        epochs=epochs,
        seed=chosen,
    )
    data = (images,) if labels is None else (images, labels, *(holdout or ()))
    key = store.fingerprint(*data, str(list(widths)), epochs, chosen)
    state = None if cache is None else store.load(cache, kind, key)
    if state is None:
        net.to(default_device()).prepare(images, labels)
        accuracy = net.accuracy if labels is None or holdout is None else _accuracy(net, *holdout)
        features = extract(net, images)
        state = {f"net.{name}": value for name, value in net.state_dict().items()}
        state |= {"mean": features.mean(0), "std": features.std(0), "accuracy": torch.tensor(accuracy).double()}
        if cache is not None:
            store.save(cache, kind, key, state, images=len(images))
    net.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("net.")})
    name = f"{kind} {'-'.join(map(str, net.channels))}" + ("" if chosen == SEEDS[kind] else f" (seed {chosen})")
    return Standardised(net=net, mean=state["mean"], std=state["std"], accuracy=float(state["accuracy"]), name=name)


@torch.no_grad()
def _accuracy(net: SmallConvNet, images: Tensor, labels: Tensor) -> float:
    return class_accuracy(torch.cat([net.logits(x.to(default_device())) for x in images.split(500)]), labels)
