"""Feature networks: images [B, C, H, W] in [-1, 1] to features [B, d], each with a name and a fingerprint."""

import importlib.util
from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sparring.backbones import CifarResNet, DINOv2
from sparring.metrics import cache as store


class Features(nn.Module):
    """A frozen map from images [B, C, H, W] in [-1, 1] to features [B, d]. Subclasses define forward.

    Args:
        name: What the numbers are called after; it is printed with every one of them.
        resize: How images are brought to the size of the network, or "none".
    """

    frechet_name: str

    def __init__(self, *, name: str, resize: str = "none") -> None:
        super().__init__()
        self.name, self.resize = name, resize
        self.frechet_name = f"Frechet distance ({name})"  # only Inception's is called FID

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [B, d] and, where the network knows classes, logits [B, K], in one pass."""
        return self(images), None

    def fingerprint(self) -> str:
        """sha256 over kind, name, resize, and all weights and buffers."""
        state = [part for key, value in self.state_dict().items() for part in (key, value)]
        return store.fingerprint(type(self).__name__, self.name, self.resize, *state)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: features do not depend on who else is in the batch."""
        return super().train(False)

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()


class Pixels(Features):
    """The pixels themselves, averaged over a coarse grid or flat: no labels and no weights.

    Args:
        pool: Side of the grid that the image is averaged to (4: C * 16 features), or None for all pixels as they are.
    """

    def __init__(self, *, pool: int | None = 4) -> None:
        if pool is not None and pool < 1:
            raise ValueError(f"`pool={pool}`: expected the side of a grid, at least 1, or null for flat pixels")
        if pool is None:
            super().__init__(name="pixels")
        else:
            super().__init__(name=f"pixels pooled to {pool}x{pool}", resize=f"mean over a {pool}x{pool} grid")
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        return (images if self.pool is None else F.adaptive_avg_pool2d(images, self.pool)).flatten(1)


class Module(Features):
    """Any network as features: its `features(images)` where it has that method, else its call.

    The network does its own resize and normalisation from [-1, 1] and returns [B, d].

    Args:
        net: The network; it is frozen.
        name: What the features are called.
        resize: What the network does to the size of images, for the record.
    """

    def __init__(self, *, net: nn.Module, name: str, resize: str = "none") -> None:
        super().__init__(name=name, resize=resize)
        self.net = net
        self._freeze()

    def forward(self, images: Tensor) -> Tensor:
        features = getattr(self.net, "features", self.net)(images)
        if features.ndim != 2:
            raise ValueError(f"the network of `{self.name}` returned {tuple(features.shape)}, expected [B, d]")
        return features


class DINOv2Features(Module):
    """The class token of a DINOv2 model, with images resized as for its published evaluations.

    Bicubic with antialias to a square, then ImageNet's mean and deviation. Source: Oquab et al. 2023 for the network;
    a Frechet distance on it is proposed in Stein et al. 2023.

    Args:
        path: Folder or Hugging Face name, for example "facebook/dinov2-large".
        image_size: Side that images are resized to; a multiple of the patch size.
    """

    def __init__(self, *, path: str, image_size: int = 224) -> None:
        net = DINOv2(path=path, image_size=image_size)
        super().__init__(net=net, name=f"DINOv2 {net.name}", resize=f"bicubic, antialiased, to {image_size}")
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return super().forward(images)


class CifarResNetFeatures(Module):
    """The 64 pooled values of a CIFAR-10 ResNet read from a file.

    Args:
        path: File of weights (`.th`).
    """

    def __init__(self, *, path: str) -> None:
        net = CifarResNet(path=path)
        super().__init__(net=net, name=net.name, resize="bilinear, antialiased, to 32")


class InceptionFeatures(Features):
    """Inception-v3 of the original FID (2048 pooled values and 1008 logits), from the torch-fidelity package.

    Images are rounded to 8 bits and resized to 299 as in TensorFlow 1, inside the package. Only in this space is a
    Frechet distance an FID and a kernel distance a KID. Source: Heusel et al. 2017.

    Args:
        path: File of the converted weights, or None: torch-fidelity downloads them.
    """

    def __init__(self, *, path: str | None = None) -> None:
        if importlib.util.find_spec("torch_fidelity") is None:
            raise ValueError(
                "Inception features need the package torch-fidelity, which is not installed: "
                "pip install -e '.[eval]', or use another feature network (their distances are not FIDs)"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__(name="Inception-v3", resize="bilinear of TensorFlow 1, to 299")
        self.frechet_name = "FID"
        self.net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
        )
        self._freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels, expected 1 (grey) or 3 (RGB)")
        bits = ((images.expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.net(bits)
        return features, logits


def extract(features: nn.Module, images: Tensor | Iterable[Tensor], *, batch_size: int = 256) -> Tensor:
    """Features [n, d] in float32 of images [n, C, H, W], or of an iterable of such batches, without gradients.

    Images are float in [-1, 1]; what lies beyond is clamped, as saving them would. Rows stay on the network's device.

    Raises:
        ValueError: No images, not float, not finite, or far outside [-1, 1].
    """
    return extract_both(features, images, batch_size=batch_size)[0]


def extract_both(
    features: nn.Module, images: Tensor | Iterable[Tensor], *, batch_size: int = 256
) -> tuple[Tensor, Tensor | None]:
    """As `extract`, with the logits [n, K] of networks that know classes (else None), in one pass."""
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    rows, logits = [], []
    for batch in batches:
        found, scores = pass_through(features, batch)
        rows.append(found)
        if scores is not None:
            logits.append(scores)
    if not rows:
        raise ValueError("no images given: expected at least one batch [B, C, H, W]")
    return torch.cat(rows), torch.cat(logits) if logits else None


def pass_through(features: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features and logits of one batch, checked, in evaluation mode and without gradients."""
    tensors = [*features.parameters(), *features.buffers()]
    training = features.training
    features.eval()
    with torch.no_grad():
        images = _checked(images).to(tensors[0].device if tensors else images.device)
        both = getattr(features, "both", None)
        found, logits = both(images) if both is not None else (features(images), None)
    features.train(training)
    return found.float(), None if logits is None else logits.float()


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected float [B, C, H, W] in [-1, 1]")
    if len(images) == 0:
        raise ValueError("a batch of images is empty: expected float [B, C, H, W] in [-1, 1] with B >= 1")
    low, high = (float(end) for end in images.aminmax())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError("images hold NaN or infinite values, expected float [B, C, H, W] in [-1, 1]")
    if max(-low, high) > 16:
        raise ValueError(f"images reach {max(-low, high):g}, expected [-1, 1]: divide by 127.5 and subtract 1")
    return images.clamp(-1, 1).float()
