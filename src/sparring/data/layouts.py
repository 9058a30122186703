"""Images with a label map that says what each pixel shows, made from the shipped digits."""

from typing import Literal

import torch

from sparring.data.base import Digits, StoredImages
from sparring.data.draws import derived_seed


class DigitLayouts(StoredImages):
    """The digits in random grey levels; the source of each is its label map: 1 for ink, -1 for background.

    A pixel is ink if the digit is at least half as dark there as it can be. The background's level is uniform in
    [-1, -0.2), the ink's in [0.2, 1), both fixed for each image, and pixels lie between them as those of the digit do.

    Args:
        split: of `Digits`.
    """

    def __init__(self, split: Literal["train", "validation", "holdout", "all"] = "train") -> None:
        digits = Digits(split)
        share = (digits.images() + 1) / 2
        random = torch.Generator().manual_seed(derived_seed("layouts", split))
        low, high = (torch.rand(len(share), 1, 1, 1, generator=random) for _ in range(2))
        low, high = -1 + 0.8 * low, 0.2 + 0.8 * high
        super().__init__(
            low + share * (high - low),
            digits.labels(),
            name=f"layouts of {digits.name}",
            num_classes=10,
            class_names=digits.class_names,
            sources=2 * (share >= 0.5).float() - 1,
        )
        self.split = split

    def holdout(self) -> "DigitLayouts | None":
        return DigitLayouts("holdout") if self.split == "train" else None
