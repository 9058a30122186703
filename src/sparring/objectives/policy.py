"""Policy gradients: how much better than expected an action was, and the losses that follow it."""

import torch
from torch import Tensor

CLIP = 5.0  # of an advantage in a group
FLOOR = 1e-4  # of the standard deviation of a group's rewards, so that equal rewards have no advantage


def generalised_advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """[B, T] `A_t = d_t + discount trace A_{t+1}`, `d_t = r_t + discount V_{t+1} - V_t` (GAE, arXiv 1506.02438).

    Args:
        rewards: [B, T].
        values: [B, T + 1], of the states and of the last one.
        discount: of a reward per step.
        trace: lambda.
    """
    delta, later, found = rewards + discount * values[:, 1:] - values[:, :-1], torch.zeros_like(rewards[:, 0]), []
    for t in reversed(range(rewards.shape[1])):
        later = delta[:, t] + discount * trace * later
        found.append(later)
    return torch.stack(found[::-1], dim=1)


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """`-mean min(w A, clip(w, 1 - c, 1 + c) A)` of ratios w (PPO, arXiv 1707.06347, Eq. 7)."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def advantages_in_group(rewards: Tensor) -> Tensor:
    """[B, n] z-scores of rewards [B, n] within their row, clipped to 5; all 0 if they are equal (FAIL, 2602.12155)."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(1, keepdim=True) + FLOOR)).clamp(-CLIP, CLIP)
