"""Digits with a second label: how much ink they have."""

from typing import Literal

import torch
from torch import Tensor

from sparring.data.base import Digits, StoredImages, in_ratio

THIN, THICK = 0, 1


class InkDigits(StoredImages):
    """The shipped digits, labelled by the digit or by their ink: 0 is thin, 1 is thick.

    An image is thick if its mean ink is above the median of all images of its digit, so that the ink says nothing of
    the digit: two models of one label each can be united for both.

    Args:
        split: of `Digits`.
        labels: what they are labelled by.
        ink: which are kept; None: both.
        ratio: of the numbers of thin and thick ones, such as [9, 1]; as many are kept as it allows. None: all.

    Raises:
        ValueError: an unknown split, label, ink or ratio.
    """

    def __init__(
        self,
        split: Literal["train", "validation", "holdout", "all"] = "train",
        *,
        labels: Literal["digit", "ink"] = "ink",
        ink: Literal["thin", "thick"] | None = None,
        ratio: list[int] | None = None,
    ) -> None:
        if labels not in ("digit", "ink"):
            raise ValueError(f"`labels={labels}` must be digit or ink")
        if ink not in (None, "thin", "thick"):
            raise ValueError(f"`ink={ink}` must be thin or thick")
        if ratio is not None and (len(ratio) != 2 or min(ratio) < 1 or ink is not None):
            raise ValueError(f"`ratio={ratio}` must give a number from 1 on for thin and for thick ones, without `ink`")
        digits = Digits(split)
        images, of_digit = digits.images(), digits.labels()
        assert of_digit is not None
        thick = is_thick(images, of_digit)
        rows = torch.arange(len(thick)) if ink is None else (thick == (ink == "thick")).nonzero()[:, 0]
        kept = in_ratio(rows, thick.long(), [THIN, THICK], ratio)
        super().__init__(
            images[kept],
            (of_digit if labels == "digit" else thick.long())[kept],
            name=f"{digits.name} by {labels}" + ("" if ink is None else f", {ink}"),
            num_classes=10 if labels == "digit" else 2,
            class_names=digits.class_names if labels == "digit" else ["thin", "thick"],
        )
        self.split, self.labelled_by, self.ink, self.ratio = split, labels, ink, ratio

    def holdout(self) -> "InkDigits | None":
        if self.split != "train":
            return None
        return InkDigits("holdout", labels=self.labelled_by, ink=self.ink, ratio=self.ratio)


def is_thick(images: Tensor, digits: Tensor) -> Tensor:
    """[n] whether images [n, 1, 8, 8] have more ink than the median of all shipped images of their digit [n]."""
    every, classes = Digits("all"), torch.arange(10)
    labels = every.labels()
    ink = every.images().mean((1, 2, 3))
    medians = torch.stack([ink[labels == digit].median() for digit in classes])
    return images.mean((1, 2, 3)) > medians[digits]
