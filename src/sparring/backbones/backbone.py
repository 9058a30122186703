"""Backbones: networks that turn images into feature maps and feature vectors, for judges and for metrics."""

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """The same module with requires_grad False everywhere and in eval mode; gradient still passes to its inputs."""
    return module.requires_grad_(False).eval()


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 8 groups of at least 4 channels, so that it also works on 1x1 maps."""
    groups = max(g for g in range(1, 9) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels)


class Backbone(nn.Module, ABC):
    """Images [B,C,H,W] in [-1,1] to a list of feature maps, and to one vector per image.

    Rows do not influence each other (no batch statistics), and gradient passes to the images.

    Attributes:
        channels: D_l of each map.
        dim: d of `features`.
        name: Short name for tables ("Frechet distance in NAME features").
    """

    channels: list[int]
    dim: int
    name: str

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B,D_l,g_l,g_l], shallow to deep."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """One vector per image, [B,d]."""

    @property
    def needs_images(self) -> bool:
        """Whether `prepare` looks at the images; they are not read for pretrained backbones."""
        return type(self).prepare is not Backbone.prepare

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the backbone on the training data where it needs that; call it once, before training starts.

        Returns:
            Whether the weights changed. Pretrained backbones need nothing and return False.
        """
        return False


def imagenet_input(images: Tensor, size: int) -> Tensor:
    """Grey or RGB images in [-1,1] as RGB [B,3,size,size], ImageNet mean and deviation removed; differentiable."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels: a pretrained backbone takes 1 (grey) or 3 (RGB)")
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1), images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return ((images.expand(-1, 3, -1, -1) + 1) / 2 - mean) / std
