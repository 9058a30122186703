"""The distance of two sets by their moments, as IMM has it (Zhou et al., arXiv 2503.07565)."""

import torch
from torch import Tensor


def squared_moments(far: Tensor, near: Tensor, width: Tensor, group: int) -> Tensor:
    """Squared maximum mean discrepancy [B / M] of groups of M rows, with the kernel exp(-|a - b| / (width D)).

    All pairs count, those of a row with itself too; so it is at least 0, and 0 for equal sets.

    Args:
        far: [B, ...].
        near: [B, ...].
        width: [B], the same in a group.
        group: M.
    """
    a, b = (x.flatten(1).view(len(x) // group, group, -1) for x in (far, near))
    scale = (width.view(-1, group)[:, :1, None].clamp(min=1e-6) * a.shape[2]).to(a)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        distance = ((x[:, :, None] - y[:, None]).square().sum(3) + 1e-12).sqrt()
        return torch.exp(-distance / scale).mean((1, 2))

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
