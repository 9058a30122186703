"""One player's optimiser: AdamW, gradient clipping and a learning rate that is a function of only the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sparring.objectives import cosine
from sparring.runs.choice import check_choice
from sparring.training.players import is_below
from sparring.training.sharding import gather_full, shard_like


@dataclass(frozen=True)
class AdamW:
    """Settings of a player's optimiser.

    Args:
        lr: peak learning rate.
        betas: decay rates of the two moments.
        weight_decay: decoupled weight decay.
        warmup_steps: steps over which the rate rises linearly from 0.
        decay: "cosine" lowers the rate to 0 at the last step of the run, "none" keeps it.
        decay_to: share of the peak to which it lowers it instead.
        beta2_end: to which the second of `betas` goes along half a cosine until the last step; None: it stays.
        clip: gradients are scaled so that their joint norm is at most this.
        lr_of: peak learning rates of parts by their names in the method, such as {"generator.net.time": 1e-3}; the
            longest name that fits counts. The rest has `lr`.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay: Literal["none", "cosine"] = "none"
    decay_to: float = 0.0
    beta2_end: float | None = None
    clip: float = 1.0
    lr_of: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rate in {"lr": self.lr, **{f"lr_of.{part}": rate for part, rate in self.lr_of.items()}}.items():
            if not 0 < rate < math.inf:
                raise ValueError(f"`{name}={rate}` must be positive: a rate of 0 would train nothing")
        if not self.clip > 0:
            raise ValueError(f"`clip={self.clip}` must be positive; to switch clipping off give a large number")
        if not all(0 <= beta < 1 for beta in (*self.betas, self.beta2_end or 0.0)):
            raise ValueError(f"`betas={self.betas}`, `beta2_end={self.beta2_end}` must lie in [0, 1)")
        check_choice("none", "cosine", decay=self.decay)
        if not 0 <= self.decay_to <= 1:
            raise ValueError(f"`decay_to={self.decay_to}` must lie in [0, 1]: a share of the peak rate")
        if self.decay_to and self.decay != "cosine":
            raise ValueError(f"`decay_to={self.decay_to}` belongs to `decay=cosine`: without it the rate stays")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"`weight_decay={self.weight_decay}` must be 0 or more")
        if self.warmup_steps < 0:
            raise ValueError(f"`warmup_steps={self.warmup_steps}` must be 0 or more")

    def without(self, frozen: Sequence[str]) -> "AdamW":
        """The same without the rates of parts that are not trained, by their names."""
        rates = {part: rate for part, rate in self.lr_of.items() if not any(is_below(part, name) for name in frozen)}
        return replace(self, lr_of=rates)


class Player:
    """What is trained under a role's name ("generator", "discriminator"), with its optimiser.

    Args:
        role: name used in the log and in checkpoints.
        named: the trained parameters by name.
        settings: optimiser settings.
        steps: length of the run, for the schedule.
        scaled: scale the loss, for gradients in fp16; each player has a scale of its own.
        start: step in which it begins to learn, for the schedule.

    Raises:
        ValueError: nothing would be trained, weights are in half precision, or `lr_of` names what is not there.
    """

    def __init__(
        self,
        role: str,
        named: dict[str, nn.Parameter],
        settings: AdamW,
        steps: int,
        scaled: bool = False,
        start: int = 0,
    ):
        self.role = role
        self.settings = settings
        self.steps = steps - start
        self.start = start
        if not named:
            raise ValueError(f"the {role} has no parameter that requires gradient: nothing would be trained")
        for name, parameter in named.items():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"the {role}'s weights are {parameter.dtype} ({name}), in which small updates are lost: load it in "
                    "float32 and choose the arithmetic with `precision`"
                )
        self.names = list(named)
        self.parameters = list(named.values())
        self.sharded = any(isinstance(parameter, DTensor) for parameter in self.parameters)
        device = self.parameters[0].device.type
        self.optimizer = torch.optim.AdamW(
            self.groups(named),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=device in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(device) if scaled else None

    def groups(self, named: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
        """The parameters by their peak learning rates."""
        known = self.settings.lr_of
        for part in known:
            if not any(is_below(name, part) for name in named):
                raise ValueError(f"`lr_of.{part}`: the {self.role} trains nothing of that name, but {', '.join(named)}")
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in named.items():
            part = max((part for part in known if is_below(name, part)), key=len, default="")
            peak = known.get(part, self.settings.lr)
            groups.setdefault(part, {"params": [], "peak": peak})["params"].append(parameter)
        return list(groups.values())

    def lr(self, step: int, peak: float | None = None) -> float:
        """Learning rate of a step of the run, counted from 0.

        Args:
            step: the step.
            peak: the peak rate; None: `lr`.
        """
        rate = self.settings.lr if peak is None else peak
        rate *= min(1.0, (step - self.start + 1) / max(self.settings.warmup_steps, 1))
        if self.settings.decay == "cosine":
            rate = cosine(rate, rate * self.settings.decay_to, self.progress(step))
        return rate

    def betas(self, step: int) -> tuple[float, float]:
        """Decay rates of the two moments in a step of the run."""
        first, second = self.settings.betas
        end = second if self.settings.beta2_end is None else self.settings.beta2_end
        return first, cosine(second, end, self.progress(step))

    def progress(self, step: int) -> float:
        """Share of its schedule that is over, from 0 to 1."""
        return (step - self.start) / max(self.steps, 1)

    def gradients(self) -> list[Tensor]:
        """The gradients there are; a parameter that took no part in the step has none."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradient is taken."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def gradient_norm(self) -> Tensor:
        """Joint norm of the gradients, which are brought back to their true scale; there must be some."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        return gather_full(nn.utils.get_total_norm(self.gradients()))

    def update(self, step: int, norm: float) -> None:
        """Moves the parameters along their gradients, whose joint norm is given, and drops the gradients."""
        if norm > self.settings.clip:
            torch._foreach_mul_(self.gradients(), self.settings.clip / norm)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.lr(step, group["peak"]), self.betas(step)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.drop_gradients()

    def skip(self, seen: bool) -> None:
        """Drops the gradients of a step that is not taken; `seen`: `gradient_norm` has looked at them."""
        if self.scaler is not None and seen:
            self.scaler.update()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments under "<parameter>/<moment>"."""
        return {
            f"{name}/{key}": value
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Sets the moments saved by `state`.

        Raises:
            ValueError: moments of another network.
        """
        by_name: dict[str, dict[str, Any]] = {}
        for path, value in state.items():
            name, key = path.rsplit("/", 1)
            by_name.setdefault(name, {})[key] = value
        for name, parameter in zip(self.names, self.parameters, strict=True):
            moments = by_name.pop(name, {})
            if any(value.ndim and value.shape != parameter.shape for value in moments.values()):
                raise ValueError(f"checkpoint of another network: {name} of the {self.role} has another shape")
            if moments:
                self.optimizer.state[parameter] = {
                    key: shard_like(value, parameter) if value.ndim else value.to(parameter.device)
                    for key, value in moments.items()
                }
        if by_name:
            raise ValueError(f"checkpoint of another network: the {self.role} has no parameter {sorted(by_name)[0]!r}")
