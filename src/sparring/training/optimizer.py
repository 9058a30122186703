"""One player's optimiser: AdamW, gradient clipping and a learning rate that is a function of the step alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AdamW:
    """Settings of a player's optimiser.

    Args:
        lr: peak learning rate.
        betas: decay rates of the two moments.
        weight_decay: decoupled weight decay.
        warmup_steps: steps over which the rate rises linearly from 0.
        decay: "cosine" lowers the rate to 0 at the last step of the run, "none" keeps it.
        clip: gradients are scaled so that their joint norm is at most this.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay: Literal["none", "cosine"] = "none"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"`lr={self.lr}` must be positive: a rate of 0 would train nothing")
        if self.clip <= 0:
            raise ValueError(f"`clip={self.clip}` must be positive; to switch clipping off give a large number")


class Player:
    """A network that is trained, under its role's name ("generator", "discriminator"), with its optimiser.

    Args:
        role: name used in the log and in checkpoints.
        module: the network; only its parameters that require gradient are trained.
        settings: optimiser settings.
        steps: length of the run, for the schedule.

    Raises:
        ValueError: nothing in the network would be trained.
    """

    def __init__(self, role: str, module: nn.Module, settings: AdamW, steps: int):
        self.role = role
        self.module = module
        self.settings = settings
        self.steps = steps
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"the {role} has no parameter that requires gradient: nothing would be trained")
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rate = self.settings.lr * min(1.0, (step + 1) / max(self.settings.warmup_steps, 1))
        if self.settings.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(step / max(self.steps, 1), 1.0)))
        return rate

    def clip(self) -> Tensor:
        """Scales the gradients to the allowed norm and returns the norm they had."""
        return nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)

    def update(self, step: int) -> None:
        """Moves the parameters along their gradients and drops the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.optimizer.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments under "<parameter>/<moment>"."""
        return {
            f"{name}/{key}": value
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Sets the moments saved by `state`."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for path, value in state.items():
            name, key = path.rsplit("/", 1)
            by_name.setdefault(name, {})[key] = value
        unknown = set(by_name) - set(self.names)
        if unknown:
            raise ValueError(f"checkpoint of another network: the {self.role} has no parameter {sorted(unknown)[0]!r}")
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if name in by_name:
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device) if key != "step" else value.clone()
                    for key, value in by_name[name].items()
                }
