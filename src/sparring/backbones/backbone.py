"""What every backbone is: a network that turns images into feature vectors, feature maps and class logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

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
    """A network that sees images: vectors for metrics and encoders, feature maps for discriminators, class logits.

    Images are [B, C, H, W] in [-1, 1]; the backbone resizes and normalises them itself. Rows do not influence each
    other (no batch statistics), and gradient passes to the images unless the class says otherwise.

    Attributes:
        name: What its numbers are called ("Frechet distance in NAME features").
        resize: How images are brought to the size of the network, or "none".
        image_size: Side to which it resizes images; None: it takes any size.
        dim: d of `features`; 0 when it depends on the images.
        channels: D_l of each map; empty without maps.
        num_classes: Classes of `logits`; None without logits.
        needs_images: Whether `prepare` learns from the images; they are not read for pretrained backbones.
        labelled: Whether labels have taught it, or will in `prepare`.
    """

    name: str
    resize: str = "none"
    image_size: int | None = None
    dim: int = 0
    channels: Sequence[int] = ()
    num_classes: int | None = None
    needs_images: bool = False
    labelled: bool = False

    @property
    def accuracy(self) -> float | None:
        """How well it did on held-out images when it was trained on the data (see `SmallConvNet`); None: it was not."""
        return None

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """One vector per image, [B, d]."""

    def forward(self, images: Tensor) -> Tensor:
        """The `features`."""
        return self.features(images)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, D_l, g_l, g_l], shallow to deep.

        Raises:
            ValueError: It has none.
        """
        raise ValueError(f"{self.name} has no feature maps, which a discriminator needs: use another backbone")

    def logits(self, images: Tensor) -> Tensor:
        """Class logits [B, num_classes].

        Raises:
            ValueError: It names no classes.
        """
        raise ValueError(f"{self.name} names no classes")

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [B, d] and, if it names the classes of the data that is measured, logits [B, K], in one pass."""
        return self.features(images), None

    def prepare(self, images: Tensor, labels: Tensor | None, seed: int = 0) -> bool:
        """Trains the backbone on the training data if it needs that; call it once, before training starts.

        Args:
            images: [N, C, H, W] in [-1, 1].
            labels: [N] int64, or None.
            seed: Of the run: another one gives another start and other draws.

        Returns:
            Whether the weights changed. Pretrained backbones need nothing and return False.
        """
        return False


def imagenet_input(images: Tensor, size: int, resize: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Grey or RGB images in [-1, 1] as RGB [B, 3, size, size], ImageNet mean and deviation removed; differentiable."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels: a pretrained backbone takes 1 (grey) or 3 (RGB)")
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode=resize, antialias=True, align_corners=False)
        images = images.clamp(-1, 1) if resize == "bicubic" else images  # which overshoots at edges
    mean, std = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1), images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return ((images.expand(-1, 3, -1, -1) + 1) / 2 - mean) / std
