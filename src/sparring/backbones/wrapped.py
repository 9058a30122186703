"""Backbones made of another network: any module as features, and features standardised over the training images."""

from collections.abc import Sequence

from torch import Tensor, nn

from sparring.backbones.backbone import Backbone


class Wrapped(Backbone):
    """Any network as features: images [B, C, H, W] in [-1, 1] to [B, d], with its own resize and normalisation.

    Args:
        net: The network.
        name: What the features are called.
        resize: What the network does to the size of images, for the record.
    """

    def __init__(self, *, net: nn.Module, name: str, resize: str = "none") -> None:
        super().__init__()
        self.net = net
        self.name, self.resize = name, resize

    def features(self, images: Tensor) -> Tensor:
        features = self.net(images)
        if features.ndim != 2:
            raise ValueError(f"the network of `{self.name}` returned {tuple(features.shape)}, expected [B, d]")
        return features


class Standardised(Backbone):
    """A trained backbone whose features have mean 0 and deviation 1 over its training images.

    Their numbers compare models of the same data, measured with the same weights, and nothing else.

    Args:
        net: The trained backbone.
        mean: Mean [d] of its features over the training images.
        std: Standard deviation [d] of its features over the training images.
        accuracy: What `SmallConvNet.accuracy` means, on held-out images.
        name: What the features are called.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, net: Backbone, mean: Tensor, std: Tensor, accuracy: float | None, name: str) -> None:
        super().__init__()
        self.net = net
        self.name, self.resize, self.dim = name, net.resize, net.dim
        self.channels: Sequence[int] = net.channels
        self.num_classes, self.labelled = net.num_classes, net.labelled
        self._accuracy = accuracy
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))

    @property
    def accuracy(self) -> float | None:
        return self._accuracy

    def features(self, images: Tensor) -> Tensor:
        return (self.net.features(images) - self.mean) / self.std

    def maps(self, images: Tensor) -> list[Tensor]:
        return self.net.maps(images)

    def logits(self, images: Tensor) -> Tensor:
        return self.net.logits(images)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        raw, logits = self.net.features_and_logits(images)
        return (raw - self.mean) / self.std, logits
