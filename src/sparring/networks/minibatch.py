"""Minibatch discrimination: how close the features of a row are to those of its companions."""

from torch import Tensor, nn


class MinibatchDiscrimination(nn.Module):
    """Features [B, in_features] to [B, kernels], which couple the rows of a group.

    `o_ik = sum_{j != i} exp(-|M_ik - M_jk|_1)` over the other rows j of the group, M = h T with `numbers` numbers for
    each kernel k: group - 1 if all rows are equal, near 0 if all are far apart. Groups are consecutive rows, so they
    are the same however a batch is cut into micro-batches and processes, as long as each part holds whole groups.
    Source: Salimans et al. 2016, "Improved Techniques for Training GANs" (arXiv 1606.03498), section 3.2, where a group
    is the batch; 100 kernels of 5 numbers.

    Args:
        in_features: Numbers of a row.
        kernels: Numbers that are found for a row.
        numbers: Numbers that a kernel compares.
        group: Rows of a group.

    Raises:
        ValueError: A size below 1, a group of fewer than 2 rows; in `forward`, rows that do not fill whole groups.
    """

    def __init__(self, in_features: int, kernels: int = 100, numbers: int = 5, group: int = 16) -> None:
        super().__init__()
        if min(in_features, kernels, numbers) < 1 or group < 2:
            raise ValueError(
                f"`in_features={in_features}`, `kernels={kernels}`, `numbers={numbers}` are at least 1, and "
                f"`group={group}` needs two rows"
            )
        self.kernels, self.numbers, self.group = kernels, numbers, group
        self.project = nn.Linear(in_features, kernels * numbers, bias=False)

    def check(self, rows: int) -> None:
        """Raises ValueError for `rows` that do not fill whole groups."""
        if rows % self.group:
            raise ValueError(f"`group={self.group}` must divide the {rows} rows of a batch that are seen at once")

    def forward(self, h: Tensor) -> Tensor:
        """[B, in_features] to [B, kernels]."""
        self.check(len(h))
        m = self.project(h).unflatten(0, (-1, self.group)).unflatten(2, (-1, self.numbers))
        close = (-(m[:, :, None] - m[:, None]).abs().sum(4)).exp()  # [groups, group, group, kernels]
        return close.sum(2).flatten(0, 1) - 1  # without itself
