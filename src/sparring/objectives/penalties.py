"""Penalties on a discriminator's gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.objectives.adversarial import _exact


def r1_penalty(logits: Tensor, x: Tensor | Sequence[Tensor]) -> Tensor:
    """Mean squared gradient norm of the discriminator at real samples, without the gamma/2 factor.

    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", Eq. (9). Given fakes
    instead of reals it is R2.

    Args:
        logits: [B, ...] discriminator output computed from `x`, graph alive; the logits of one image are summed.
            Row i must depend on row i of `x` only.
        x: [B, ...] real images, or a list of feature maps of them (the penalties add up), with requires_grad=True.

    Returns:
        Scalar in float32 (float64 for float64 inputs). Differentiable with respect to the discriminator's parameters.
    """
    inputs = [x] if isinstance(x, Tensor) else list(x)
    grads = torch.autograd.grad(_exact(logits).sum(), inputs, create_graph=True)
    return torch.stack([_exact(grad).square().flatten(1).sum(1).mean() for grad in grads]).sum()
