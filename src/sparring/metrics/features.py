"""Feature networks: images [B, C, H, W] in [-1, 1] to features [B, d], each with a name and a fingerprint."""

import hashlib
from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Features(nn.Module):
    """A frozen map from images [B, C, H, W] in [-1, 1] to features [B, d].

    Subclasses define forward(images), and logits(images) -> [B, K] where the network knows classes.

    Args:
        name: What the numbers are called after; it is printed with every one of them.
    """

    has_logits = False

    def __init__(self, *, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def frechet_name(self) -> str:
        """What a Frechet distance in this space may be called. Only Inception's is an FID."""
        return f"Frechet distance ({self.name})"

    def fingerprint(self) -> str:
        """A sha256 over the name and all weights and buffers: equal for equal numbers, and for nothing else."""
        digest = hashlib.sha256(f"{type(self).__name__}\n{self.name}".encode())
        for key, value in self.state_dict().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def freeze(self) -> Self:
        """No gradient to the weights, evaluation mode; returns self."""
        self.requires_grad_(False)
        return self.eval()


class Pixels(Features):
    """The pixels themselves, averaged over a coarse grid or flat: needs no labels and no weights.

    Args:
        pool: Side of the grid that the image is averaged to (4: C * 16 features), or None for all pixels as they are.
    """

    def __init__(self, *, pool: int | None = 4) -> None:
        if pool is not None and pool < 1:
            raise ValueError(f"pool={pool}: expected a grid of at least 1, or null for flat pixels")
        super().__init__(name="pixels" if pool is None else f"pixels pooled to {pool}x{pool}")
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        return (images if self.pool is None else F.adaptive_avg_pool2d(images, self.pool)).flatten(1)


class Module(Features):
    """Any network as features: its `features(images)` method where it has one, else its call.

    The network does its own resize and normalisation from [-1, 1] and returns [B, d].

    Args:
        net: The network.
        name: What the features are called, e.g. "DINOv2 ViT-S/14"; say the resize in it where there is one.
    """

    def __init__(self, *, net: nn.Module, name: str) -> None:
        super().__init__(name=name)
        self.net = net
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        features = getattr(self.net, "features", self.net)(images)
        if features.ndim != 2:
            raise ValueError(f"the network of `{self.name}` returned {tuple(features.shape)}, expected [B, d]")
        return features


def extract(features: nn.Module, images: Tensor | Iterable[Tensor], *, batch_size: int = 256) -> Tensor:
    """Features [n, d] in float32 of images [n, C, H, W], or of an iterable of such batches, without gradients.

    Images are float in [-1, 1]; what lies beyond is clamped, as saving them would. Rows stay on the network's device.
    """
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    training = features.training
    features.eval()
    device = next((p.device for p in [*features.parameters(), *features.buffers()]), torch.device("cpu"))
    try:
        with torch.no_grad():
            rows = [features(_checked(batch).to(device)).float() for batch in batches]
    finally:
        features.train(training)
    if not rows:
        raise ValueError("no images given: features need at least one batch")
    return torch.cat(rows)


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected float [B, C, H, W] in [-1, 1]")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold NaN or infinite values, expected float [B, C, H, W] in [-1, 1]")
    if float(images.abs().max()) > 16:
        raise ValueError(
            f"images reach {float(images.abs().max()):g}, expected [-1, 1]: divide by 127.5 and subtract 1"
        )
    return images.clamp(-1, 1).float()
