"""A point that a map leaves where it is, and the gradient of it without the graph of the way there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]


@dataclass
class FixedPoint:
    """Where an iteration has led, [B, ...] all.

    Attributes:
        state: the last iterate.
        early: the iterate at half of the way, with the gradient of one step; with all of it if unrolled.
        residual: [B] `|f(z) - z| / |f(z)|` of the last step, without gradient.
    """

    state: Tensor
    early: Tensor
    residual: Tensor


def fixed_point(step: Step, start: Tensor, iterations: int, *, implicit: bool = True) -> FixedPoint:
    """`z = f(z)` by so many steps of plain iteration, which converges if f is a contraction.

    Of the implicit gradient, for a loss with slope v at z,

        dL/dtheta = g^T df/dtheta,      g = v + J^T g,      J = df/dz at z

    is found by as many steps of iteration on g; nothing of the way is kept. It is the gradient of the unrolled
    iteration if both have converged (Bai et al., arXiv 1909.01377, Theorem 1). The number of steps is fixed, so that
    no row depends on how fast another converges.

    Args:
        step: f, whose row i depends on row i only.
        start: [B, ...] the first z.
        iterations: steps, at least 2.
        implicit: False keeps the graph of every step.
    """
    middle, state = iterations // 2, start
    if not (implicit and torch.is_grad_enabled()):
        early = before = state
        for call in range(iterations):
            before, state = state, step(state)
            early = state if call + 1 == middle else early
        return FixedPoint(state, early, residual_of(before, state))
    with torch.no_grad():
        for _ in range(middle - 1):
            state = step(state)
        halfway = state
        for _ in range(iterations - middle):
            state = step(state)
    early, before = step(halfway), state
    state = step(before)
    if state.requires_grad:
        leaf = before.detach().requires_grad_()
        again = step(leaf)

        def solved(slope: Tensor) -> Tensor:
            g = slope
            for _ in range(iterations):
                (back,) = torch.autograd.grad(again, leaf, g, retain_graph=True)
                g = slope + back
            return g

        state.register_hook(solved)
    return FixedPoint(state, early, residual_of(before, state))


@torch.no_grad()
def residual_of(before: Tensor, after: Tensor) -> Tensor:
    """[B] length of the last step, over that of where it led."""
    return (after - before).flatten(1).norm(dim=1) / after.flatten(1).norm(dim=1).clamp_min(1e-12)
