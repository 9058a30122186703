"""The seam between a method and the trainer: `Method`, and the denoising error that all methods share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Views, discriminator_losses
from sparring.generators import DenoisingNetwork, Generator
from sparring.networks.frozen import Module, MovingCopy, copy_of_trained
from sparring.objectives import Objective, Penalty
from sparring.process import Uncertainty
from sparring.runs.field import Field

Losses = dict[str, Tensor | Callable[[], Tensor]]
"""Named scalars whose sum is minimised. A value may be a function: it is called, and its gradient taken, when the
graph of the others is freed, which lowers the peak of memory."""


class Method(nn.Module, ABC):
    """One training algorithm: makes a fake and says what each player minimises.

    The trainer calls, for every step::

        rollout = method.rollout(batch)
        update(discriminator, method.discriminator_loss(batch, rollout))
        update(generator, method.generator_loss(batch, rollout))       # the same rollout, the same graph
        method.after_step()

    While one player learns, the other takes no gradient.

    Attributes:
        generator: what is kept at the end.
        discriminator: the opponent with all of its trainable parts, or None.
        generator_first: the generator is updated before the discriminator, which sees the same rollout afterwards.
        updates_per_rollout: generator updates on one rollout. With more than 1 the rollout is made without a graph, and
            `generator_loss` runs the network itself, as policy gradients do.
        step: number of the current step, from 0; set by the trainer (ramps and warm-ups read it).
        steps: of the whole run; set by the trainer (schedules read it).
        sampler: name of the diffusers scheduler for which the generator is made ("ddim", "lcm" …).
        sample_steps: network calls used for the sample grids of a run.
        trains_lengths: networks that take how far each step goes (`denoiser.second_time`) are trained for it.
        jumped: `after_step` has put the generator elsewhere, and its average starts again from there; the trainer takes
            note and sets it back.
        jumps: it may do so after training has begun, so that averages over the whole run would mix what was left.
        teaches_source: the own source of the denoiser, if it has weights that learn, is trained by this method.
    """

    generator: Generator
    discriminator: nn.Module | None
    generator_first: bool = False
    updates_per_rollout: int = 1
    sampler: str = "ddim"
    sample_steps: int = 10
    trains_lengths: bool = False
    jumped: bool = False
    jumps: bool = False
    teaches_source: bool = False

    def __init__(self, generator: Generator, discriminator: nn.Module | None = None):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.step = 0
        self.steps = 1
        self.statistics: dict[str, Tensor] = {}

    @property
    def beside(self) -> DenoisingNetwork | None:
        """The trained denoiser for which the generator is made; its run notes the weights. None: it fits others, too.

        A sampler that is given the generator then refuses another denoiser: `check_trained_beside`.
        """
        return None

    def parts(self) -> list[nn.Module]:
        """Further modules that are trained with the generator, by its optimiser: a projector, an encoder, a prior.

        Each is an attribute of the method, so that it is in every checkpoint. It is not averaged and not shipped. By
        default a weighting that is learned.
        """
        return [part for part in self.children() if isinstance(part, Uncertainty)]

    @abstractmethod
    def rollout(self, batch: Batch) -> Any:
        """Makes the fake with its graph; the same object is given to both losses."""

    def discriminator_loss(self, batch: Batch, rollout: Any) -> Losses:
        """What the discriminator minimises; detaches the fake itself. Called only if there is a discriminator."""
        raise NotImplementedError(f"{type(self).__name__} has a discriminator and no discriminator_loss")

    @abstractmethod
    def generator_loss(self, batch: Batch, rollout: Any) -> Losses:
        """What the generator minimises."""

    def fields(self, batch: Batch, points: Tensor) -> list[Field]:
        """The discriminator's logits over the plane, for the pictures of a run on points; by default none is drawn.

        Args:
            batch: real points.
            points: generated points [n, 2, 1, 1].
        """
        return []

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Numbers that say how well the method does what it is for, beside those of its samples; by default none.

        They are taken with each picture of a run, without gradient and in eval mode, go to its log as `measures/NAME`,
        and `sparring evaluate` shows the last of them. Nothing may change by it.

        Args:
            generator: the average, which is sampled and shipped.
            data: images trained on; see `held_out`.
            draws: random numbers for the rows, the same in every call.
        """
        return {}

    def size_for(self, data: ImageData) -> None:
        """Called once before a run is made or goes on: the place for what has the size of the data set."""

    def after_step(self) -> None:
        """Called once after a step in which all updates were taken: the place to move a `moving_copy`."""

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; modules whose parameters are all frozen (teacher, reference, backbone) stay in eval mode."""
        super().train(mode)
        for part in list(self.modules())[1:]:
            trained = [parameter.requires_grad for parameter in part.parameters()]
            if trained and not any(trained):
                part.eval()
        return self

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Called once before the first step of a new run: every discriminator prepares itself with the data.

        This is where a small feature network is trained on the training images. A run that goes on from a checkpoint
        does not call it.
        """
        for discriminator in self.discriminators():
            discriminator.prepare(data, seed)

    def check(self, batch_size: int) -> None:
        """Raises ValueError if it, or its discriminator, cannot work with `batch_size` images at once."""
        if batch_size < 1:
            raise ValueError(f"`batch_size={batch_size}` must be at least 1")
        if isinstance(self.generator, DenoisingNetwork):
            self.check_network(self.generator)
        for discriminator in self.discriminators():
            discriminator.check(batch_size)

    def check_network(self, network: DenoisingNetwork) -> None:
        """Raises ValueError if the generator has a part that only other methods train."""
        source = network.own_source
        if source is not None and not self.teaches_source and any(p.requires_grad for p in source.parameters()):
            raise ValueError(
                f"`own_source={type(source).__name__}` is trained by a method of its own: start from its run (--init)"
            )
        if network.time_slot is not None and not self.trains_lengths:
            raise ValueError(
                f"`second_time`: {type(self).__name__} would train this network for steps of length 0 only, and a "
                "sampler tells it the length of its own: take meanflow or imm, or start from a network without it"
            )

    def discriminators(self) -> list[Discriminator]:
        """Every discriminator in here, trained or frozen."""
        return [part for part in self.modules() if isinstance(part, Discriminator)]

    def generators(self) -> list[Generator]:
        """Every generator in here (the trained one, teacher, reference): a step's cost is counted in their calls."""
        return [part for part in self.modules() if isinstance(part, Generator)]

    def discriminator_terms(
        self,
        discriminator: Discriminator,
        views: Views,
        objective: Objective,
        penalties: Sequence[Penalty],
        draws: Draws,
        *,
        weight: float = 1.0,
        name: str = "adversarial",
        prefix: str = "",
    ) -> Losses:
        """The terms of a discriminator's loss in this step; what is known of them goes to the log.

        Args:
            discriminator: the one that is updated.
            views: what it sees; the graph of the fakes is left out.
            objective: adversarial loss.
            penalties: those that are due are added.
            draws: random numbers for the rows.
            weight: of all terms.
            name: of the objective's term.
            prefix: of all names, of a method with two discriminators.
        """
        terms, statistics = discriminator_losses(
            discriminator, views, objective, penalties, step=self.step, draws=draws, name=name
        )
        self.log(**{prefix + key: value for key, value in statistics.items()})
        return {prefix + key: weight * value for key, value in terms.items()}

    def ramp(self, num_steps: int, delay: int = 0) -> float:
        """Rises from 0 to 1 over `num_steps` steps, after `delay` steps at 0."""
        return min(max(self.step + 1 - delay, 0) / max(num_steps, 1), 1.0)

    def log(self, **values: Tensor | float) -> None:
        """Keeps statistics of this step for the log (detached; the trainer averages and writes them)."""
        self.statistics.update({name: torch.as_tensor(value).detach() for name, value in values.items()})


def held_out(data: ImageData, draws: Draws, n: int = 1000) -> Batch:
    """Up to n held-out images as a batch, of the training set if the data knows no holdout; always the same."""
    chosen = data.holdout() or data
    n = min(n, len(chosen))
    source = chosen.source_images(n)
    source = None if source is None else source.to(draws.device)
    return Batch.of(chosen.images(n).to(draws.device), chosen.labels(n), draws, source=source)


def check_not_negative(**settings: float) -> None:
    """Raises ValueError for a setting below 0."""
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"`{name}={value}` must be 0 or more")


def check_weights(**weights: float) -> None:
    """Raises ValueError for a weight below 0, or if all are 0."""
    check_not_negative(**weights)
    if not any(weights.values()):
        raise ValueError(f"{', '.join(f'`{name}=0`' for name in weights)}: nothing would be learned")


def frozen_copy(module: Module) -> Module:
    """A copy that never changes (teacher, reference): eval mode, no gradient; written once in a run.

    What is frozen already is shared. A copy that changes all the same is an error at the next checkpoint.
    """
    return copy_of_trained(module).eval().requires_grad_(False)


def moving_copy(module: Module) -> MovingCopy[Module]:
    """A copy that moves when the method says so (EMA target, teacher of the next round): in every checkpoint.

    `copy.follow(module, factor)` goes a share of the way, `copy.refreeze(module)` all of it; both belong into
    `Method.after_step`. The copy is called as the module itself, which is `copy.module`.
    """
    return MovingCopy(module)
