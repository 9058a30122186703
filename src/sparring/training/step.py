"""One training step: one rollout, one update of each player, or of neither where a number is not finite."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, derived_seed
from sparring.methods.method import Method
from sparring.training import processes
from sparring.training.optimizer import Player
from sparring.training.state import changing_tensors
from sparring.training.watch import Balance, Noted

Precision = Literal["fp32", "bf16", "fp16"]
Micro = tuple[Tensor, Tensor | list[str] | None, slice]
"""Images, labels or captions, and rows of the global batch of one micro-batch, on the device."""

LAST = -1  # the number of the rollout that both players share


class Step:
    """Makes the fake and updates both players, from a window of micro-batches.

    The discriminator goes first. With one micro-batch the generator's update uses the same fake and the same graph;
    with several, the same fake is made again, because only one graph fits. Random numbers depend on the step and the
    row of the global batch alone, so both ways give the same update.

    Args:
        method: what is trained.
        generator: its generator as a player.
        discriminator: its opponent, if it has one.
        batch_size: images of the global batch.
        seed: of all noise.
        precision: arithmetic inside the networks; losses, logits and the process stay in float32.
        discriminator_updates: discriminator updates per step; those before the last make fakes of their own.
        balance: lets the discriminator rest while it is too good; None: it never rests.
    """

    def __init__(
        self,
        method: Method,
        generator: Player,
        discriminator: Player | None = None,
        *,
        batch_size: int,
        seed: int,
        precision: Precision = "fp32",
        discriminator_updates: int = 1,
        balance: Balance | None = None,
    ):
        self.method = method
        self.generator = generator
        self.discriminator = discriminator
        self.batch_size = batch_size
        self.seed = seed
        self.half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.discriminator_updates = discriminator_updates
        self.balance = balance
        self.device = generator.parameters[0].device
        self.before = Snapshot(method, discriminator)
        self.stop_asked = False  # of this process
        self.stop_agreed = False  # of any process, and known to all of them after the same step
        self.step = 0
        self.noted: Noted = []

    @property
    def players(self) -> list[Player]:
        return [self.generator] + ([self.discriminator] if self.discriminator else [])

    def __call__(self, window: list[Micro], step: int) -> tuple[bool, Noted]:
        """One step; whether it was taken, and its statistics.

        A step is not taken when a loss or gradient of either player is not finite: both players, their moments and all
        buffers are then, bit for bit, what they were before.
        """
        self.step = self.method.step = step
        self.noted = []
        self.before.take()
        if self.update_both([self.embedded(micro) for micro in window]):
            return True, self.noted
        self.before.restore()
        return False, self.noted

    def update_both(self, window: list[Batch]) -> bool:
        fake = None
        if self.discriminator is not None:
            for update in range(self.discriminator_updates):
                last = update == self.discriminator_updates - 1
                if self.balance is not None and self.balance.rests and not last:
                    continue
                fake, finite = self.discriminator_update(window, update, last)
                if not finite:
                    return False
        return self.generator_update(window, fake)

    def discriminator_update(self, window: list[Batch], update: int, last: bool) -> tuple[Any, bool]:
        """Updates the discriminator; the fake whose graph the generator goes on with, where it can, and whether all
        numbers were finite."""
        assert self.discriminator is not None
        keep_graph = last and len(window) == 1
        rests = self.balance is not None and self.balance.rests
        fake = None
        loss = torch.zeros((), device=self.device)
        first_noted = len(self.noted)
        for micro in window:
            with torch.set_grad_enabled(keep_graph):
                fake = self.rollout(micro, LAST if last else update)
            batch = self.batch(micro, f"discriminator {update}")
            with self.autocast():
                losses = self.method.discriminator_loss(batch, fake)
            if not rests:
                loss += self.backward(self.discriminator, losses, len(window))
            self.note_statistics()
        if self.balance is not None:
            self.balance.observe(self.noted[first_noted:])
            self.noted.append(("statistics/discriminator_rested", float(rests)))
        if not rests:
            if not self.finish(self.discriminator, loss):
                return None, False
            after_update = getattr(self.method.discriminator, "after_update", None)
            if after_update is not None:
                after_update()
        return (fake if keep_graph else None), True

    def generator_update(self, window: list[Batch], fake: Any) -> bool:
        """Updates the generator, with the fake of the discriminator's update or with the same one made again."""
        loss = torch.zeros((), device=self.device)
        with without_gradient(self.discriminator):
            for micro in window:
                shared = fake if fake is not None else self.rollout(micro, LAST)
                batch = self.batch(micro, "generator")
                with self.autocast():
                    losses = self.method.generator_loss(batch, shared)
                loss += self.backward(self.generator, losses, len(window))
                self.note_statistics()
        return self.finish(self.generator, loss)

    def embedded(self, micro: Micro) -> Batch:
        """A micro-batch as the networks take it: latents and embedded captions are made once for the whole step."""
        images, condition, rows = micro
        return self.method.generator.embed(Batch.of(images, condition, self.draws("embed", rows)))

    def rollout(self, micro: Batch, number: int) -> Any:
        """The fake of a micro-batch. Dropout, which knows nothing of rows, follows torch's own generators."""
        seed = derived_seed(self.seed, self.step, f"dropout {number}", micro.draws.first)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        with self.autocast():
            return self.method.rollout(self.batch(micro, f"rollout {number}"))

    def batch(self, micro: Batch, phase: str) -> Batch:
        """A micro-batch with the random numbers of one phase of this step."""
        return replace(micro, draws=self.draws(phase, micro.draws.rows))

    def draws(self, phase: str, rows: slice | None) -> Draws:
        return Draws(self.seed, step=self.step, phase=phase, rows=rows, total=self.batch_size, device=self.device)

    def backward(self, player: Player, losses: Any, num_micro: int) -> Tensor:
        """Adds the gradient of the losses to the player's parameters and to nobody else's; returns their sum."""
        now = {name: value for name, value in losses.items() if not callable(value)}
        later = {name: value for name, value in losses.items() if callable(value)}
        losses.clear()
        loss_sum = torch.zeros((), device=self.device)
        for group in [now, *({name: value} for name, value in later.items())]:
            if not group:
                continue
            with self.autocast():
                values = {name: value() if callable(value) else value for name, value in group.items()}
            group.clear()
            exact = [value.to(torch.promote_types(value.dtype, torch.float32)) for value in values.values()]
            loss = sum(exact[1:], exact[0]) / num_micro
            self.noted += [(f"{player.role}/{name}", value.detach()) for name, value in values.items()]
            # the parameters of a sharded network exist whole only while it computes and cannot be named; its opponent
            # is out of the graph by `without_gradient`
            player.scaled(loss).backward(inputs=None if player.sharded else player.parameters)
            loss_sum += loss.detach()
            del values, exact, loss
        return loss_sum

    def finish(self, player: Player, loss: Tensor) -> bool:
        """Updates a player with the mean gradient over the processes, if loss and gradient are finite."""
        if not player.sharded:
            processes.average_gradients(player.parameters)
        learns = bool(player.gradients())
        norm = player.gradient_norm() if learns else torch.zeros((), device=self.device)
        news = processes.total(torch.stack([loss, torch.full_like(loss, self.stop_asked)]))
        loss_now, stop_now, norm_now = torch.cat([news, norm.view(1)]).tolist()  # the one wait for the device
        self.stop_agreed = stop_now > 0
        self.noted.append((f"gradient_norm/{player.role}", norm_now))
        finite = math.isfinite(loss_now) and math.isfinite(norm_now)
        if finite and learns:
            player.update(self.step, norm_now)
        else:
            player.skip(seen=learns)
        return finite

    def note_statistics(self) -> None:
        """Takes over what the method noted about itself."""
        self.noted += [(f"statistics/{name}", value) for name, value in self.method.statistics.items()]
        self.method.statistics = {}

    def autocast(self) -> AbstractContextManager:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, dtype=self.half)


class Snapshot:
    """The discriminator with its moments, and every buffer that may change, as they were before a step.

    The copies are made once and written over in each step; a method without a discriminator and without such buffers
    costs nothing.

    Args:
        method: what is trained.
        discriminator: the player that is updated first.
    """

    def __init__(self, method: Method, discriminator: Player | None):
        self.discriminator = discriminator
        self.fixed: list[Tensor] = [*(discriminator.parameters if discriminator else [])]
        self.fixed += [tensor for tensor in changing_tensors(method).values() if not isinstance(tensor, nn.Parameter)]
        self.live: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.had_moments: set[Tensor] = set()

    @torch.no_grad()
    def take(self) -> None:
        moments = dict(self.discriminator.optimizer.state) if self.discriminator else {}
        self.had_moments = set(moments)
        self.live = self.fixed + [tensor for state in moments.values() for tensor in state.values()]
        if len(self.copies) != len(self.live):
            self.copies = [torch.empty_like(tensor) for tensor in self.live]
        if self.live:
            torch._foreach_copy_(self.copies, self.live)

    @torch.no_grad()
    def restore(self) -> None:
        if self.live:
            torch._foreach_copy_(self.live, self.copies)
        if self.discriminator:
            state = self.discriminator.optimizer.state
            for parameter in [p for p in state if p not in self.had_moments]:
                del state[parameter]


@contextmanager
def without_gradient(player: Player | None) -> Iterator[None]:
    """Takes a player's parameters out of the graph while its opponent is updated."""
    parameters = player.parameters if player else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
