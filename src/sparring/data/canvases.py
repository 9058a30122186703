"""Canvases of two digits, to ask for objects in places."""

import torch
from torch import Tensor

from sparring.data.base import Digits, StoredImages
from sparring.data.draws import derived_seed

SIDE = 16
DIGIT = 8


class DigitCanvases(StoredImages):
    """Canvases [1, 16, 16], each with two of scikit-learn's digits that do not overlap, on black; without labels.

    Args:
        num_samples: size of the fixed sample.
        classes: the two digits of every canvas; None: any two.
        corners: the first lies in the upper left quarter and the second in the lower right; else anywhere.
        held_out: made of held-out digits.
        seed: of the fixed sample.

    Raises:
        ValueError: no sample, or `classes` that are not two digits.
    """

    def __init__(
        self,
        *,
        num_samples: int = 4000,
        classes: list[int] | None = None,
        corners: bool = False,
        held_out: bool = False,
        seed: int = 0,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"`num_samples={num_samples}` must be at least 1")
        if classes is not None and (len(classes) != 2 or not set(classes) <= set(range(10))):
            raise ValueError(f"`classes={classes}` must be two digits")
        digits = Digits("holdout" if held_out else "train")
        name = "canvases:holdout" if held_out else "canvases"
        random = torch.Generator().manual_seed(derived_seed(name, seed))
        labels, canvases = digits.labels(), torch.full((num_samples, 1, SIDE, SIDE), -1.0)
        assert labels is not None
        places = torch.tensor([[0, 0], [DIGIT, DIGIT]]).expand(num_samples, 2, 2)
        if not corners:
            places = apart(num_samples, random)
        for which in range(2):
            known = torch.arange(len(labels)) if classes is None else (labels == classes[which]).nonzero()[:, 0]
            drawn = digits.images()[known[torch.randint(len(known), (num_samples,), generator=random)]]
            for canvas, image, (row, column) in zip(canvases, drawn, places[:, which].tolist(), strict=True):
                canvas[:, row : row + DIGIT, column : column + DIGIT] = image
        super().__init__(canvases, None, name=name)
        self.settings = dict(num_samples=num_samples, classes=classes, corners=corners, seed=seed)
        self.held_out = held_out

    def holdout(self) -> "DigitCanvases | None":
        """As many canvases of held-out digits."""
        return None if self.held_out else DigitCanvases(held_out=True, **self.settings)  # type: ignore[arg-type]


def apart(n: int, random: torch.Generator) -> Tensor:
    """[n, 2, 2] rows and columns of the upper left ends of two digits that do not overlap."""
    kept = torch.empty(0, 2, 2, dtype=torch.long)
    while len(kept) < n:
        drawn = torch.randint(SIDE - DIGIT + 1, (4 * n, 2, 2), generator=random)
        kept = torch.cat([kept, drawn[(drawn[:, 0] - drawn[:, 1]).abs().amax(1) >= DIGIT]])
    return kept[:n]
