"""Random numbers that do not depend on how a batch is cut up, and the batch that carries them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and names: equal parts give equal seeds, on every machine."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws:
    """Random numbers of one phase of one training step.

    They depend on (seed, step, phase), on the order of the calls and on a row's place in the *global* batch, on nothing
    else: the numbers of all `total` rows are drawn from one generator and the local `rows` of them are returned. So two
    processes on half batches, or eight micro-batches of one row, see what one process sees on the whole batch.

    Numbers that all rows share (`one_integer`, `subset`) come from a generator of their own on the CPU:
    they are equal in every process and cost no transfer from the GPU.

    Args:
        seed: of the whole run. None: one taken from torch's global generator (`torch.manual_seed` then decides).
        step: number of the training step.
        phase: what the numbers are for, such as "generator".
        rows: which rows of the global batch are here, as a slice with a start and a stop; with `total`. None: all.
        total: rows of the global batch.
        device: where the numbers are made. Another device makes other numbers.

    Raises:
        ValueError: `rows` without `total` or the reverse, or `rows` not within `total`.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        step: int = 0,
        phase: str = "",
        rows: slice | None = None,
        total: int | None = None,
        device: torch.device | str = "cpu",
    ):
        if (rows is None) != (total is None):
            raise ValueError(f"`rows={rows}` and `total={total}`: give both (a part of a batch) or none (all of it)")
        if rows is not None and total is not None and not _is_part(rows, total):
            raise ValueError(f"`rows={rows}` must be slice(start, stop) with 0 <= start < stop <= total={total}")
        self.seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
        self.step = step
        self.phase = phase
        self.rows = rows
        self.total = total
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as images say it

    @property
    def first(self) -> int:
        """The place of the first local row in the global batch."""
        return 0 if self.rows is None else self.rows.start

    @property
    def count(self) -> int | None:
        """Number of local rows; None: as many as are asked for."""
        return None if self.rows is None else self.rows.stop - self.rows.start

    @cached_property
    def _per_row(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived_seed(self.seed, self.step, self.phase, "rows"))

    @cached_property
    def _shared(self) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, self.step, self.phase, "shared"))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32, of `shape`; shape[0] is the number of local rows."""
        full = torch.randn(self._full(shape), generator=self._per_row, device=self.device, dtype=torch.float32)
        return self._local(full)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), float32, of `shape`; shape[0] is the number of local rows."""
        full = torch.rand(self._full(shape), generator=self._per_row, device=self.device, dtype=torch.float32)
        return self._local(full)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in 0..high-1, int64, of `shape`; shape[0] is the number of local rows."""
        return self._local(torch.randint(high, self._full(shape), generator=self._per_row, device=self.device))

    def one_integer(self, high: int) -> int:
        """One integer in 0..high-1, the same for all rows and processes."""
        return int(torch.randint(high, (), generator=self._shared).item())

    def subset(self, n: int, k: int) -> list[int]:
        """k different numbers out of 0..n-1, sorted, the same for all rows and processes."""
        if not 0 <= k <= n:
            raise ValueError(f"`k={k}` numbers out of `n={n}`: k must lie in 0..n")
        return sorted(torch.randperm(n, generator=self._shared)[:k].tolist())

    def to(self, device: torch.device | str) -> "Draws":
        """These draws on another device, from the first call on; itself if the device is the same."""
        if torch.empty(0, device=device).device == self.device:
            return self
        return Draws(self.seed, step=self.step, phase=self.phase, rows=self.rows, total=self.total, device=device)

    def _full(self, shape: Sequence[int]) -> list[int]:
        """`shape` for all rows of the global batch."""
        if self.rows is None or self.total is None:
            return list(shape)
        if shape[0] != self.count:
            raise ValueError(
                f"`shape={tuple(shape)}` asks for {shape[0]} rows, but these draws are for {self.count} rows"
            )
        return [self.total, *shape[1:]]

    def _local(self, full: Tensor) -> Tensor:
        return full if self.rows is None else full[self.rows]


def _is_part(rows: slice, total: int) -> bool:
    return isinstance(rows.start, int) and isinstance(rows.stop, int) and 0 <= rows.start < rows.stop <= total


@dataclass
class Batch:
    """What a method gets in one step: images, perhaps what they show, and the step's random numbers, on one device.

    Attributes:
        images: (B, C, H, W) float32 in [-1, 1].
        labels: (B,) int64 class numbers, or None.
        draws: moved to the images' device if they are elsewhere.
        texts: B captions, or None.
        x_0: what is diffused, (B, c, h, w): the images, or their latents once `Denoiser.embed` has seen the batch.
        condition: what the network is conditioned on: the labels, or the embedded captions once `Denoiser.embed` has
            seen them.
        source: (B, C, H, W) the image that comes with each image (its pair, or one of a second domain), or None.
        index: (B,) int64 the rows of the data set, or None if they are not known.
    """

    images: Tensor
    labels: Tensor | None = None
    draws: Draws = field(default_factory=Draws)
    texts: list[str] | None = None
    x_0: Tensor = None  # type: ignore[assignment]
    condition: Any = None
    source: Tensor | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        self.draws = self.draws.to(self.images.device)
        if self.x_0 is None:
            self.x_0 = self.images
        if self.condition is None:
            self.condition = self.labels

    @classmethod
    def of(cls, images: Tensor, condition: "Tensor | list[str] | None", draws: Draws, **further: Any) -> "Batch":
        """A batch as a data set gives it: images with class labels, captions or nothing.

        Args:
            images: (B, C, H, W).
            condition: labels (B,), or B captions, or None.
            draws: the step's random numbers.
            further: `source` and `index`.
        """
        if isinstance(condition, list):
            return cls(images, draws=draws, texts=condition, **further)
        return cls(images, None if condition is None else condition.to(images.device), draws, **further)

    def __len__(self) -> int:
        return len(self.images)
