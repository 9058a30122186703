"""One training step: one rollout, the updates of both players, or of neither if a number is not finite."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws, derived_seed
from sparring.data.waiting import Told
from sparring.methods.method import Method
from sparring.networks.precision import at_least_float32
from sparring.process import LearnedTimes
from sparring.training import processes
from sparring.training.batches import Micro
from sparring.training.optimizer import Player
from sparring.training.sharding import local_shard
from sparring.training.state import changing_tensors
from sparring.training.watch import Balance, Noted

Precision = Literal["fp32", "bf16", "fp16"]
SILENT_SECONDS = 30.0  # after which a step says how far it is
LAST = -1  # the number of the rollout that both players share


class Step:
    """Makes the rollout and updates both players, from a window of micro-batches.

    The discriminator goes first, unless the method says `generator_first`. With one micro-batch the generator's update
    uses the same rollout and the same graph; with several, the same rollout is made again, because only one graph fits.
    Random numbers depend only on the step and the row of the global batch, so both ways give the same update. A
    rollout that the generator's own update would change (`generator_first`, `updates_per_rollout`) is kept.

    Args:
        method: what is trained.
        generator: its generator as a player.
        discriminator: its opponent, if it has one.
        batch_size: images of the global batch.
        seed: of all noise.
        precision: arithmetic inside the networks; losses, logits and the process stay in float32.
        discriminator_updates: discriminator updates per step; all but one make rollouts of their own.
        fresh_images: these have a global batch of their own, too: a window then holds so many, and the last is shared
            with the generator.
        warmup_steps: steps at the start of the run in which only the discriminator learns.
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
        fresh_images: bool = False,
        warmup_steps: int = 0,
        balance: Balance | None = None,
    ):
        self.method = method
        self.generator = generator
        self.discriminator = discriminator
        self.batch_size = batch_size
        self.seed = seed
        self.half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.discriminator_updates = discriminator_updates
        self.batches = discriminator_updates if fresh_images else 1
        self.warmup_steps = warmup_steps
        self.balance = balance
        self.device = generator.parameters[0].device
        self.learned_times = [part for part in method.modules() if isinstance(part, LearnedTimes)]
        updates = [] if discriminator is None else [discriminator] * discriminator_updates
        mine = [generator] * method.updates_per_rollout
        self.updates = len(mine + updates)
        *early, _ = mine + updates if method.generator_first else updates + mine
        self.before = Snapshot(method, list(dict.fromkeys(early)))
        self.stop_asked = False  # of this process
        self.stop_agreed = False  # of any process, and known to all of them after the same step
        self.step = 0
        self.noted: Noted = []
        self.one_more = Told("step", 0)

    @property
    def generator_learns(self) -> bool:
        """Whether this step is behind the discriminator's warm-up."""
        return self.step >= self.warmup_steps

    def __call__(self, window: list[Micro], step: int) -> tuple[bool, Noted]:
        """One step; whether it was taken, and its statistics.

        A step is not taken when a loss or gradient of either player is not finite: both players, their moments and all
        buffers are then, bit for bit, what they were before.
        """
        self.step = self.method.step = step
        self.noted = []
        self.before.take()
        if self.update_both([self.embedded(micro) for micro in window]):
            self.method.after_step()
            for times in self.learned_times:
                times.after_step()
            return True, self.noted
        self.before.restore()
        return False, self.noted

    def update_both(self, window: list[Batch]) -> bool:
        """All updates of the step in their order; whether all numbers were finite."""
        size = len(window) // self.batches
        self.one_more = Told(f"step {self.step + 1}", size * self.updates, first=SILENT_SECONDS)
        shared = window[-size:]
        rollouts: list[Any] = []  # those of the shared micro-batches, once they are made and kept
        if self.generator_learns and self.method.updates_per_rollout > 1:
            with torch.no_grad():
                rollouts = [self.rollout(micro, LAST) for micro in shared]
        if self.generator_learns and self.method.generator_first:
            made = self.generator_update(shared, rollouts)
            if made is None:
                return False
            rollouts = made
        if self.discriminator is not None:
            last = self.discriminator_updates - 1
            order = [last, *range(last)] if self.method.generator_first else range(last + 1)
            for update in order:
                if self.balance is not None and self.balance.rests and update != last:
                    continue
                own = window[size * update : size * (update + 1)] if self.batches > 1 else shared
                made = self.discriminator_update(own, update, rollouts if update == last else [])
                if made is None:
                    return False
                if update == last:
                    rollouts = made
        if self.generator_learns and not self.method.generator_first:
            return self.generator_update(shared, rollouts) is not None
        return True

    def discriminator_update(self, window: list[Batch], update: int, rollouts: list[Any]) -> list[Any] | None:
        """Updates the discriminator.

        Args:
            window: its micro-batches.
            update: its number; the last one is shared with the generator.
            rollouts: of the micro-batches, if they are there already.

        Returns:
            The rollouts with which the generator goes on, if it can; None if a number was not finite.
        """
        assert self.discriminator is not None
        last = update == self.discriminator_updates - 1
        goes_on = last and self.generator_learns and not self.method.generator_first
        keep_graph = goes_on and len(window) == 1 and not rollouts
        rests = self.balance is not None and self.balance.rests
        kept = list(rollouts)
        loss = torch.zeros((), device=self.device)
        first_noted = len(self.noted)
        for place, micro in enumerate(window):
            if rollouts:
                rollout = rollouts[place]
            else:
                with torch.set_grad_enabled(keep_graph):
                    rollout = self.rollout(micro, LAST if last else update)
                kept += [rollout] if keep_graph else []
            batch = self.batch(micro, f"discriminator {update}")
            with without_gradient(self.generator):
                with self.autocast():
                    losses = self.method.discriminator_loss(batch, rollout)
                if not rests:
                    loss += self.backward(self.discriminator, losses, len(window))
            self.note_statistics()
        if self.balance is not None:
            self.balance.observe(self.noted[first_noted:])
            self.noted.append(("statistics/discriminator_rested", float(rests)))
        if not rests:
            if not self.finish(self.discriminator, loss):
                return None
            for part in self.method.discriminators():
                if any(parameter.requires_grad for parameter in part.parameters()):
                    part.after_update()
        return kept

    def generator_update(self, window: list[Batch], rollouts: list[Any]) -> list[Any] | None:
        """Updates the generator on the given rollouts, or on the same ones made again.

        Returns:
            The rollouts, if they were kept; None if a number was not finite.
        """
        kept = list(rollouts)
        for update in range(self.method.updates_per_rollout):
            loss = torch.zeros((), device=self.device)
            with without_gradient(self.discriminator):
                for place, micro in enumerate(window):
                    rollout = kept[place] if place < len(kept) else self.rollout(micro, LAST)
                    if self.method.generator_first and place >= len(kept):
                        kept.append(rollout)
                    batch = self.batch(micro, f"generator {update}" if update else "generator")
                    with self.autocast():
                        losses = self.method.generator_loss(batch, rollout)
                    loss += self.backward(self.generator, losses, len(window))
                    self.note_statistics()
            if not self.finish(self.generator, loss):
                return None
            self.method.generator.after_update()
        return kept

    def embedded(self, micro: Micro) -> Batch:
        """A micro-batch as the networks take it: latents and embedded captions are made once for the whole step."""
        draws = self.draws("embed", micro.rows)
        batch = Batch.of(micro.images, micro.condition, draws, source=micro.source, index=micro.index)
        return self.method.generator.embed(batch)

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
            exact = [at_least_float32(value) for value in values.values()]
            loss = sum(exact[1:], exact[0]) / num_micro
            self.noted += [(f"{player.role}/{name}", value.detach()) for name, value in values.items()]
            # the parameters of a sharded network exist whole only while it computes and cannot be named; its opponent
            # is out of the graph by `without_gradient`
            player.scaled(loss).backward(inputs=None if player.sharded else player.parameters)
            loss_sum += loss.detach()
            del values, exact, loss
        self.one_more()
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
    """Players with their moments, and every tensor that may change without being trained, as they were before a step.

    The copies are made once and written over in each step; a method without a discriminator, and without buffers and
    moving copies, costs nothing.

    Args:
        method: what is trained.
        players: those that are updated before the last update of a step.
    """

    def __init__(self, method: Method, players: list[Player]):
        self.players = players
        self.fixed: list[Tensor] = [parameter for player in players for parameter in player.parameters]
        trained = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
        self.fixed += [tensor for tensor in changing_tensors(method).values() if id(tensor) not in trained]
        self.live: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.had_moments: set[Tensor] = set()

    @torch.no_grad()
    def take(self) -> None:
        moments = {parameter: state for player in self.players for parameter, state in player.optimizer.state.items()}
        self.had_moments = set(moments)
        live = self.fixed + [tensor for state in moments.values() for tensor in state.values()]
        self.live = [local_shard(tensor) for tensor in live]
        if len(self.copies) != len(self.live):
            self.copies = [torch.empty_like(tensor) for tensor in self.live]
        if self.live:
            torch._foreach_copy_(self.copies, self.live)

    @torch.no_grad()
    def restore(self) -> None:
        if self.live:
            torch._foreach_copy_(self.live, self.copies)
        for player in self.players:
            state = player.optimizer.state
            for parameter in [p for p in state if p not in self.had_moments]:
                del state[parameter]


@contextmanager
def without_gradient(player: Player | None) -> Iterator[None]:
    """Takes a player's parameters out of the graph while its opponent is updated.

    Not those of a sharded player, which cannot be named; it gets no gradient by `Step.backward` all the same.
    """
    parameters = player.parameters if player and not player.sharded else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
