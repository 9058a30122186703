"""Clips of one digit that drifts with constant velocity: a moving image whose motion is known."""

from copy import copy

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparring.data.base import Digits, StoredImages
from sparring.data.draws import derived_seed

FASTEST = 2
"""Pixels a frame along each side, at most."""


class DriftingDigits(StoredImages):
    """Clips [frames, size, size] of scikit-learn's digits, a frame in each channel; a label is the digit.

    A digit, its place and its velocity, whole pixels from -2 to 2 along each side but not at rest, are drawn for each
    clip; what leaves at one side comes in at the other.

    Args:
        num_frames: of each clip.
        size: width and height; a digit has 8.
        num_samples: size of the fixed sample.
        jumps: each frame has a place of its own, so that nothing moves steadily: a control.
        seed: of the fixed sample.

    Raises:
        ValueError: no frame or sample, or a size below 8.
    """

    def __init__(
        self, *, num_frames: int = 8, size: int = 12, num_samples: int = 4000, jumps: bool = False, seed: int = 0
    ) -> None:
        if num_frames < 1 or num_samples < 1 or size < 8:
            raise ValueError(
                f"`num_frames={num_frames}`, `num_samples={num_samples}` must be at least 1, and `size={size}` 8"
            )
        self.num_frames, self.size, self.num_samples, self.jumps, self.seed = num_frames, size, num_samples, jumps, seed
        self._make(Digits(), "drifting")

    def _make(self, digits: Digits, name: str) -> None:
        random = torch.Generator().manual_seed(derived_seed(name, self.seed))
        n, frames = self.num_samples, self.num_frames
        chosen = torch.randint(len(digits), (n,), generator=random)
        place = torch.randint(self.size, (n, 1, 2), generator=random)
        velocity = torch.randint((2 * FASTEST + 1) ** 2 - 1, (n,), generator=random)
        velocity = velocity + (velocity >= 2 * FASTEST * (FASTEST + 1))  # without rest, which is in the middle
        steps = torch.stack([velocity // (2 * FASTEST + 1), velocity % (2 * FASTEST + 1)], 1)[:, None] - FASTEST
        at = place + steps * torch.arange(frames)[None, :, None]
        if self.jumps:
            at = torch.randint(self.size, (n, frames, 2), generator=random)
        labels = digits.labels()
        assert labels is not None
        clips = moved(digits.images()[chosen], at, self.size)
        names = digits.class_names
        super().__init__(clips, labels[chosen], name=name, num_classes=10, class_names=names)

    def holdout(self) -> "DriftingDigits":
        """As many clips of held-out digits."""
        other = copy(self)
        other._make(Digits("holdout"), "drifting:holdout")
        return other


def moved(images: Tensor, places: Tensor, size: int) -> Tensor:
    """Clips [B, F, size, size] of images [B, 1, h, w] in [-1, 1] on black, whose corners are at places [B, F, 2]."""
    large = pad(images, (0, size - images.shape[3], 0, size - images.shape[2]), value=-1.0)
    rows, columns = (
        (torch.arange(size) - places[..., side, None]) % size for side in (0, 1)
    )  # where each pixel comes from, [B, F, size]
    clip, frame = torch.arange(len(images))[:, None, None, None], torch.zeros(1, 1, 1, 1, dtype=torch.long)
    return large[clip, frame, rows[:, :, :, None], columns[:, :, None, :]]


def displacements(clips: Tensor) -> Tensor:
    """[B, F - 1, 2] pixels by which clips [B, F, H, W] move from each frame to the next, in [-H/2, H/2).

    The shift, around the edges, at which both frames correlate best.
    """
    spectra = torch.fft.fft2(clips - clips.mean((2, 3), keepdim=True))
    correlation = torch.fft.ifft2(spectra[:, 1:] * spectra[:, :-1].conj()).real
    height, width = clips.shape[2:]
    best = correlation.flatten(2).argmax(2)
    steps = torch.stack([best // width, best % width], dim=2)
    sides = torch.tensor([height, width], device=clips.device)
    return (steps + sides // 2) % sides - sides // 2


def unsteadiness(clips: Tensor) -> Tensor:
    """[B] variance of the displacements of clips [B, F, H, W] over their frames, both sides added: 0 if steady."""
    steps = displacements(clips)
    sides = torch.tensor(clips.shape[2:], device=clips.device)
    change = (steps - steps[:, :1] + sides // 2) % sides - sides // 2  # beside the first, around the edges
    return change.double().var(1, unbiased=False).sum(1)
