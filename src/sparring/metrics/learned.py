"""Features that are learned from the training images of the data that is measured, with labels or without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sparring.backbones import FileEncoder, SmallConvNet
from sparring.metrics import cache as store
from sparring.metrics.features import Features, Module, extract


class LearnedFeatures(Features):
    """The features of a small network, standardised over the training images.

    Their numbers compare models of the same data, measured with the same weights, and nothing else.

    Args:
        net: A trained SmallConvNet.
        mean: Mean [d] of its features over the training images.
        std: Standard deviation [d] of its features over the training images.
        accuracy: What `SmallConvNet.accuracy` means, on held-out images.
        name: What the features are called.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, net: SmallConvNet, mean: Tensor, std: Tensor, accuracy: float, name: str) -> None:
        super().__init__(name=name)
        self.net = net
        self.accuracy = accuracy
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))
        self._freeze()

    def forward(self, images: Tensor) -> Tensor:
        return (self.net.features(images) - self.mean) / self.std

    @classmethod
    def _kept(
        cls,
        net: SmallConvNet,
        images: Tensor,
        labels: Tensor | None,
        *,
        holdout: tuple[Tensor, Tensor] | None,
        cache: str | Path | None,
        kind: str,
        key: str,
    ) -> Self:
        """The features of `net`, trained on the images or read from the cache."""
        state = None if cache is None else store.load(cache, kind, key)
        if state is None:
            net.prepare(images, labels)
            accuracy = net.accuracy if holdout is None else _accuracy(net, *holdout)
            features = extract(Module(net=net, name="raw"), images)
            state = {f"net.{name}": value for name, value in net.state_dict().items()}
            state |= {"mean": features.mean(0), "std": features.std(0), "accuracy": torch.tensor(accuracy).double()}
            if cache is not None:
                store.save(cache, kind, key, state, images=len(images))
        net.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("net.")})
        name = f"{kind} {'-'.join(map(str, net.channels))}"
        return cls(net=net, mean=state["mean"], std=state["std"], accuracy=float(state["accuracy"]), name=name)


class ClassifierFeatures(LearnedFeatures):
    """The data's own small classifier: standardised features before its last layer, and its class logits."""

    def __init__(
        self, *, net: SmallConvNet, mean: Tensor, std: Tensor, accuracy: float, name: str = "classifier"
    ) -> None:
        if net.classifier is None:
            raise ValueError("`net` has no classes: build it with `num_classes`")
        super().__init__(net=net, mean=mean, std=std, accuracy=accuracy, name=name)

    @classmethod
    def fit(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        holdout: tuple[Tensor, Tensor] | None = None,
        cache: str | Path | None = None,
        widths: Sequence[int] = (32, 64, 64),
        epochs: int = 20,
        seed: int = 1000,
    ) -> "ClassifierFeatures":
        """Trains the classifier, in seconds on small images, or reads it from the cache.

        5x5 kernels, another activation and another seed than a SmallConvNet that judges as a discriminator, so that
        the two do not share their blind spots by construction; default (ours).

        Args:
            images: Training images [n, C, H, W] in [-1, 1]; never the images that models are measured against.
            labels: Their labels [n] int64.
            holdout: Images and labels for `accuracy`; without them it is taken on a tenth of the training images
                that is left out of the training.
            cache: Folder to keep the trained classifier in, found again by data and settings; None: none.
            widths: Channels of the stages; the last one is d.
            epochs: Passes over the data.
            seed: Of the initial weights and the order of the data.
        """
        num_classes = int(labels.max()) + 1
        key = store.fingerprint(images, labels, *(holdout or ()), str(list(widths)), epochs, seed)
        net = SmallConvNet(
            in_channels=images.shape[1],
            widths=widths,
            num_classes=num_classes,
            kernel_size=5,
            activation="leaky_relu",
            epochs=epochs,
            seed=seed,
        )
        return cls._kept(net, images, labels, holdout=holdout, cache=cache, kind="classifier", key=key)

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        raw = self.net.features(images)
        assert self.net.classifier is not None
        return (raw - self.mean) / self.std, self.net.classifier(raw)


class SelfSupervisedFeatures(LearnedFeatures):
    """The features of a small network that learned from the training images without labels (`fit_self_supervised`)."""

    @classmethod
    def fit(
        cls,
        images: Tensor,
        *,
        cache: str | Path | None = None,
        widths: Sequence[int] = (32, 64, 64),
        epochs: int | None = None,
        seed: int = 2000,
    ) -> "SelfSupervisedFeatures":
        """Trains the network, in minutes on small images, or reads it from the cache.

        Kernels, activation and seed differ from those of a SmallConvNet that judges, as for `ClassifierFeatures`.

        Args:
            images: Training images [n, C, H, W] in [-1, 1]; never the images that models are measured against.
            cache: Folder to keep the trained network in, found again by data and settings; None: none.
            widths: Channels of the stages; the last one is d.
            epochs: Passes over the data; None: see `SmallConvNet`.
            seed: Of the initial weights, the order of the data and the views.
        """
        net = SmallConvNet(
            in_channels=images.shape[1],
            widths=widths,
            pretrain="self-supervised",
            kernel_size=5,
            activation="leaky_relu",
            epochs=epochs,
            seed=seed,
        )
        key = store.fingerprint(images, str(list(widths)), epochs, seed)
        return cls._kept(net, images, None, holdout=None, cache=cache, kind="self-supervised", key=key)


def file_features(path: str) -> LearnedFeatures:
    """The features of a file of `sparring encoder`, standardised over the images that it was trained on.

    Raises:
        ValueError: No such file, or one of another kind.
    """
    net = FileEncoder(path=path)
    kind = ClassifierFeatures if net.pretrain == "classifier" else LearnedFeatures
    return kind(net=net, mean=net.mean, std=net.std, accuracy=net.accuracy, name=f"{net.name} of {Path(path).name}")


@torch.no_grad()
def _accuracy(net: SmallConvNet, images: Tensor, labels: Tensor) -> float:
    right = [net.logits(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(torch.cat(right).double().mean())
