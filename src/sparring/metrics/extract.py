"""Features of many images, in batches and without gradients, from any backbone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone
from sparring.data import ImageData
from sparring.data.waiting import told

Found = TypeVar("Found")


@dataclass(frozen=True)
class ImageBatches:
    """The images of a data set, `size` [B, C, H, W] at a time, as often as it is iterated; memory holds one batch."""

    data: ImageData
    size: int = 256

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.data), *self.data.image_shape

    def __iter__(self) -> Iterator[Tensor]:
        firsts = range(0, len(self.data), self.size)
        for first in told(firsts, f"looking at {len(self.data)} images of {self.data.name}", len(firsts)):
            yield self.data[list(range(first, min(first + self.size, len(self.data))))][0]


def extract(features: nn.Module, images: Tensor | Iterable[Tensor], *, batch_size: int = 256) -> Tensor:
    """Features [n, d] in float32 of images [n, C, H, W], or of an iterable of such batches, without gradients.

    Images are float in [-1, 1]; what lies beyond is clamped, as saving them would. Rows stay on the network's device.

    Args:
        features: A backbone, or any network from images [B, C, H, W] to [B, d]; it runs in evaluation mode.
        images: What it sees.
        batch_size: Images per pass.

    Raises:
        ValueError: No images, not float, not finite, or far outside [-1, 1].
    """
    return torch.cat([rows.float() for rows in _passed(features, features, images, batch_size)])


def extract_both(
    features: Backbone, images: Tensor | Iterable[Tensor], *, batch_size: int = 256
) -> tuple[Tensor, Tensor | None]:
    """As `extract`, with the logits [n, K] of backbones that know classes (else None), in one pass."""
    found = _passed(features, features.features_and_logits, images, batch_size)
    logits = [scores.float() for _, scores in found if scores is not None]
    return torch.cat([rows.float() for rows, _ in found]), torch.cat(logits) if logits else None


def _passed(
    network: nn.Module, call: Callable[[Tensor], Found], images: Tensor | Iterable[Tensor], batch_size: int
) -> list[Found]:
    """What a call of the network gives for each batch, checked, in evaluation mode and without gradients."""
    tensors = [*network.parameters(), *network.buffers()]
    training, found = network.training, []
    network.eval()
    with torch.no_grad():
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            checked = _checked(batch)
            found.append(call(checked.to(tensors[0].device if tensors else checked.device)))
    network.train(training)
    if not found:
        raise ValueError("no images given: expected at least one batch [B, C, H, W]")
    return found


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
