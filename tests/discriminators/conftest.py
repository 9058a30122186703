"""What the discriminators' tests share: random draws by the row, and a small frozen backbone."""

import pytest
import torch

from sparring.discriminators import SmallConvNet


class RowDraws:
    """Draws in which each row has its own generator, so that a row's numbers do not depend on the rows beside it."""

    def __init__(self, rows, seed=0):
        self.generators = [torch.Generator().manual_seed(1000 * seed + row) for row in rows]

    def uniform(self, shape):
        return torch.stack([torch.rand(tuple(shape[1:]), generator=g) for g in self.generators])

    def integers(self, high, shape):
        return torch.stack([torch.randint(high, tuple(shape[1:]), generator=g) for g in self.generators])


@pytest.fixture
def draws():
    """Makes draws: `draws(4)` for the rows 0 to 3, `draws([2], seed=1)` for row 2 of another phase."""
    return lambda rows, seed=0: RowDraws(range(rows) if isinstance(rows, int) else rows, seed)


@pytest.fixture
def backbone():
    return SmallConvNet(in_channels=3, widths=(8, 16), pretrain="none").double()
