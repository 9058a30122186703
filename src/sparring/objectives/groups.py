"""Hidden groups of a data set, found by their losses, and the weights of rows by which group losses become equal."""

import torch
from torch import Tensor


def group_means(losses: Tensor, weights: Tensor) -> Tensor:
    """m_g = sum_i W_ig l_i / sum_i W_ig [G], of losses l [n] and soft groups W [n, G]."""
    return (weights * losses[:, None]).sum(0) / weights.sum(0).clamp(min=1e-12)


def groups_by_loss(
    losses: Tensor, groups: int, *, steps: int = 500, lr: float = 0.01, smallest: float = 0.1, seed: int = 0
) -> Tensor:
    """Soft groups W [n, groups], rows on the simplex, whose mean losses differ most; float64.

    The standard deviation of the means over the groups, in units of the mean loss, is maximised by Adam; W is clamped
    at 0 and renormalised after each step. Source: InvDiff (arXiv 2412.08480), official code. Ours: a penalty on groups
    below a share of all rows, since otherwise one outlier is the best group.

    Args:
        losses: [n], one a row.
        groups: G.
        steps: of Adam.
        lr: its rate.
        smallest: share of the rows that a group should have; at most 1 / G is asked for.
        seed: of the start.
    """
    with torch.enable_grad():
        scaled = losses.detach().double() / losses.detach().double().mean().clamp(min=1e-12)
        start = torch.rand(len(losses), groups, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        weights = (start / start.sum(1, keepdim=True)).to(scaled.device).requires_grad_()
        share, optimizer = min(smallest, 1 / groups), torch.optim.Adam([weights], lr=lr)
        for _ in range(steps):
            short = (share - weights.mean(0)).clamp(min=0)
            gain = group_means(scaled, weights).std(correction=0) - 10 * short.sum()
            optimizer.zero_grad()
            (-gain).backward()
            optimizer.step()
            with torch.no_grad():
                kept = weights.clamp(min=0)
                weights.copy_(kept / kept.sum(1, keepdim=True).clamp(min=1e-12))
    return weights.detach()


def row_factors(losses: Tensor, weights: Tensor, variance_weight: float) -> Tensor:
    """c [n] for which mean_i c_i l_i has the gradient of mean_g m_g + variance_weight var_g m_g at these losses [n].

    c_i = n sum_g W_ig / (sum_j W_jg) (1 + 2 variance_weight (m_g - mean m)) / G, of soft groups W [n, G].
    """
    means = group_means(losses, weights)
    of_group = (1 + 2 * variance_weight * (means - means.mean())) / weights.shape[1]
    return len(losses) * (weights / weights.sum(0).clamp(min=1e-12) * of_group).sum(1)
