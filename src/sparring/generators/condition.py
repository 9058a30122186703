"""What a network is conditioned on: class labels as they are, captions as embeddings."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TextCondition:
    """Captions as a text-to-image network takes them; a batch of B rows that is cut and joined like a tensor.

    Attributes:
        tokens: [B, length, width] embedding of every token.
        pooled: [B, width] embedding of the whole caption (SDXL, SD3, FLUX.1), or None.
        sizes: [B, 6] original height and width, top and left of the crop, height and width (SDXL), or None.
        mask: [B, length] which tokens are of the caption, and not there to fill up, or None: all are.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of_rows(cls, rows: list[Tensor]) -> "TextCondition":
        """Captions of B lengths, each [length, width], filled up to the longest."""
        mask = [row.new_ones(len(row), dtype=torch.bool) for row in rows]
        return cls(pad_sequence(rows, batch_first=True), mask=pad_sequence(mask, batch_first=True))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> "TextCondition":
        return self.map(lambda x: x[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> "TextCondition":
        """The same with every tensor changed."""
        further = (None if x is None else change(x) for x in (self.pooled, self.sizes, self.mask))
        return TextCondition(change(self.tokens), *further)

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {part.name: value for part in fields(self) if (value := getattr(self, part.name)) is not None}

    def to(self, dtype: torch.dtype) -> "TextCondition":
        """The same with its embeddings in another precision."""
        return replace(
            self, tokens=self.tokens.to(dtype), pooled=None if self.pooled is None else self.pooled.to(dtype)
        )

    def with_sizes(self, sizes: Tensor | None) -> "TextCondition":
        """The same for images of other sizes."""
        return replace(self, sizes=sizes)

    def filled(self, length: int) -> "TextCondition":
        """The same with tokens and mask filled up to a length."""
        more = length - self.tokens.shape[1]
        if more == 0 or self.mask is None:
            return self
        return replace(self, tokens=pad(self.tokens, (0, 0, 0, more)), mask=pad(self.mask, (0, more)))


Condition = Tensor | TextCondition | None


def concatenate(first: Condition, second: Condition) -> Condition:
    """The rows of one condition, then those of another of the same kind; masked tokens are filled up to one length."""
    if isinstance(first, TextCondition) and isinstance(second, TextCondition):
        length = max(first.tokens.shape[1], second.tokens.shape[1])
        first, second = first.filled(length), second.filled(length)
        pairs = ((first.pooled, second.pooled), (first.sizes, second.sizes), (first.mask, second.mask))
        further = (None if one is None or other is None else torch.cat([one, other]) for one, other in pairs)
        return TextCondition(torch.cat([first.tokens, second.tokens]), *further)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    return torch.cat([first, second])


def select_rows(mask: Tensor, first: Condition, second: Condition) -> Condition:
    """Row by row `first` where the [B] mask is true, and `second` elsewhere."""
    rows = torch.arange(len(mask), device=mask.device)
    both = concatenate(first, second)
    assert both is not None
    return both[torch.where(mask, rows, rows + len(rows))]


def in_turn(labels: list[int] | None, total: int | None, n: int, device: torch.device) -> Tensor:
    """[n] class numbers: the given ones, or all `total` of them, in turn.

    Raises:
        ValueError: a label that is none of the classes.
    """
    chosen = labels if labels is not None else list(range(total or 1))
    for label in chosen:
        if label < 0 or (total is not None and label >= total):
            raise ValueError(f"`label={label}`: the network has the classes 0 to {(total or 1) - 1}")
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)], device=device)


def repeated(rows: Tensor, n: int, device: torch.device) -> Tensor:
    """n rows [n, ...], the given ones [m, ...] in turn."""
    return rows[torch.arange(n) % len(rows)].to(device)
