"""Exponential moving average of a network's parameters and buffers, in float32."""

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.networks.frozen import copy_of_trained, frozen_tensors
from sparring.objectives import cosine
from sparring.runs.choice import check_choice
from sparring.training.sharding import local_shard


class EMA:
    """A copy of a module that follows it slowly; the copy is what is sampled and shipped.

    Each update does `copy <- beta copy + (1 - beta) module` for floating-point parameters and buffers; integer buffers
    are copied. What is frozen in the module is not averaged and not copied: both hold the same tensors.

    Args:
        module: the network that is trained; the average starts from its current state.
        decay: beta per update, in [0, 1); 0 follows the network exactly.
        halflife_images: instead of `decay`, the number of training images after which a contribution has halved.
        batch_size: images per update, to turn a half-life into a decay.
        warmup: bounds beta by (1 + k) / (10 + k) in update k, so that a random start is forgotten; wrong for
            fine-tuning, where the start is the trained average. "cosine" lets the half-life rise from 0 along half a
            cosine over the run instead, as in R3GAN (arXiv 2501.05441).
        steps: updates of the average in the run, for "cosine".
        copied: names of tensors that are copied like integers.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        decay: float = 0.999,
        halflife_images: float | None = None,
        batch_size: int = 1,
        warmup: bool | Literal["cosine"] = False,
        steps: int = 1,
        copied: Collection[str] = (),
    ):
        check_choice(False, True, "cosine", ema_warmup=warmup)
        if not 0 <= decay < 1:
            raise ValueError(f"`ema_decay={decay}` must lie in [0, 1)")
        if halflife_images is not None and halflife_images <= 0:
            raise ValueError(f"`ema_halflife_images={halflife_images}` must be positive")
        self.decay = decay if halflife_images is None else 0.5 ** (batch_size / halflife_images)
        self.warmup, self.steps, self.copied = warmup, steps, copied
        self.updates = 0
        self.frozen = set(frozen_tensors(module))
        self.module: Any = copy_of_trained(module).eval().requires_grad_(False)
        self.follow(module)

    def follow(self, module: nn.Module) -> None:
        """Looks up the tensors of the network and of its copy; again after both were cut into shards."""
        source = state_tensors(module)
        copy = {name: tensor for name, tensor in state_tensors(self.module).items() if name not in self.frozen}
        floating = [n for n, tensor in copy.items() if tensor.is_floating_point() and n not in self.copied]
        self.source = [local_shard(source[name]) for name in floating]
        self.copy = [local_shard(copy[name]) for name in floating]
        self.exact = [(source[name], copy[name]) for name in copy if name not in set(floating)]

    def beta(self) -> float:
        """Decay of the next update."""
        if self.warmup == "cosine":  # beta = 0.5^(1 / half-life), in updates
            share = cosine(0.0, 1.0, (self.updates + 1) / self.steps)
            return self.decay ** (1 / share) if share > 0 else 0.0
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, beta: float | None = None) -> None:
        """One step of the average; to be called after every update of the network.

        Args:
            beta: decay of this step, in place of that of the settings; 0 starts again from the network.
        """
        beta = self.beta() if beta is None else beta
        torch._foreach_lerp_(self.copy, [s.to(c.dtype) for s, c in zip(self.source, self.copy, strict=True)], 1 - beta)
        for source, copy in self.exact:
            copy.copy_(source)
        self.updates += 1


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers of a module by name, sharing their memory."""
    return dict(module.state_dict(keep_vars=False))
