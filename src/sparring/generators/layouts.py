"""Layouts of the training images as the condition of a denoiser: for each place a segment that no label gave."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sparring.data import Batch
from sparring.generators.own_source import OwnSource


class Layouts(OwnSource):
    """Maps [B, count, h, w] out of a bank of one for each training image; each place is of one segment, or of none.

    In the channel of its segment a place is 1, elsewhere 0; a map of zeros says "none", as guidance needs it. A box is
    a map that has one segment inside and nothing outside. Samples take the map of a training image, all alike often.
    The bank is filled by who finds the segments (`SelfGuided.prepare`). Source: self-guided diffusion (Hu et al. 2022,
    arXiv 2210.06462); samples by the training images' own maps, and zeros for "none", are ours.

    Args:
        count: Segments, K.
        size: Height and width of a map; the network sees it enlarged.
        rows: Maps; set by itself.

    Raises:
        ValueError: A size below 1. In `size_for`, another number of images than maps.
    """

    noise_dim = 1
    maps: Tensor

    @register_to_config
    def __init__(self, count: int = 10, size: Sequence[int] = (4, 4), rows: int = 0) -> None:
        super().__init__()
        if len(size) != 2 or min(count, *size) < 1 or count > 255:
            raise ValueError(f"`count={count}` must lie in 1..255, and `size={list(size)}` be a height and a width")
        self.maps = nn.Parameter(torch.full((rows, *size), count, dtype=torch.uint8), requires_grad=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.config["count"], *self.config["size"])

    @property
    def none(self) -> Tensor:
        return torch.zeros(self.shape, device=self.maps.device)

    def size_for(self, images: int, image_shape: tuple[int, int, int]) -> None:
        if self.config["rows"] not in (0, images):
            raise ValueError(f"there are {self.config['rows']} layouts, and the data has {images} images")
        if self.config["rows"] == 0:
            self.register_to_config(rows=images)
            self.maps.data = self.maps.data.new_full((images, *self.config["size"]), self.config["count"])

    def of(self, rows: Tensor) -> Tensor:
        """Sources [B, count, h, w] of the training images in rows [B]."""
        count = self.config["count"]
        return nn.functional.one_hot(self.maps[rows].long(), count + 1)[..., :count].movedim(-1, 1).float()

    def forward(self, noise: Tensor) -> Tensor:
        rows = torch.special.ndtr(noise[:, 0]).mul(len(self.maps)).long().clamp(max=len(self.maps) - 1)
        return self.of(rows)

    def of_batch(self, batch: Batch, training: bool) -> Tensor:
        """The source that says "none": held-out images have no layout."""
        return self.none.expand(len(batch), *self.shape)

    def fill(self, maps: Tensor) -> None:
        """Takes over the maps [rows, h, w] of all images: segments from 0, and `count` for nothing."""
        self.maps.data.copy_(maps)


def in_boxes(segments: Tensor) -> Tensor:
    """Whether places lie in the smallest box around the object [N, h, w], of two segments [N, h, w].

    The object is the segment that has the smaller share of the places at the border of the images.
    """
    at_border = torch.ones_like(segments[0], dtype=torch.bool)
    at_border[1:-1, 1:-1] = False
    share = [(segments[:, at_border] == k).double().mean() / (segments == k).double().mean() for k in (0, 1)]
    thing = segments == int(share[1] < share[0])
    rows, columns = thing.any(2), thing.any(1)
    return between(rows)[:, :, None] & between(columns)[:, None, :]


def between(marked: Tensor) -> Tensor:
    """Whether places [N, n] lie between the first and the last that is marked, both included."""
    count = marked.long()
    return (count.cumsum(1) > 0) & (count.flip(1).cumsum(1).flip(1) > 0)
