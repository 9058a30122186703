"""The seam between a method and the trainer: `Method`, and the denoising error that all methods share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from sparring.backbones.fitting import images_to_learn
from sparring.data import Batch, ImageData
from sparring.generators import Generator
from sparring.networks.frozen import Module, copy_of_trained

Losses = dict[str, Tensor | Callable[[], Tensor]]
"""Named scalars whose sum is minimised. A value may be a function: it is called, and its gradient taken, when the
graph of the others is freed, which lowers the peak of memory."""


class Method(nn.Module, ABC):
    """One training algorithm: makes a fake, judges it, and says what each player minimises.

    The trainer calls, for every step::

        fake = method.rollout(batch)
        update(discriminator, method.discriminator_loss(batch, fake))
        update(generator, method.generator_loss(batch, fake))       # the same fake, the same graph

    Attributes:
        generator: what is kept at the end.
        discriminator: the opponent with all of its trainable parts, or None.
        step: number of the current step, from 0; set by the trainer (ramps and warm-ups read it).
        sampler: name of the diffusers scheduler for which the generator is made ("ddim", "lcm" …).
        sample_steps: network calls used for the sample grids of a run.
    """

    generator: Generator
    discriminator: nn.Module | None
    sampler: str = "ddim"
    sample_steps: int = 10

    def __init__(self, generator: Generator, discriminator: nn.Module | None = None):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.step = 0
        self.statistics: dict[str, Tensor] = {}

    @abstractmethod
    def rollout(self, batch: Batch) -> Any:
        """Makes the fake with its graph; the same object is given to both losses."""

    def discriminator_loss(self, batch: Batch, fake: Any) -> Losses:
        """What the discriminator minimises; detaches the fake itself. Called only where there is a discriminator."""
        raise NotImplementedError(f"{type(self).__name__} has a discriminator and no discriminator_loss")

    @abstractmethod
    def generator_loss(self, batch: Batch, fake: Any) -> Losses:
        """What the generator minimises."""

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; parts without a trained parameter (teacher, reference, frozen judge) stay in eval mode."""
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def prepare(self, data: ImageData) -> None:
        """Called once before the first step of a new run: every part with a `prepare(images, labels)` gets the data.

        This is where a small feature network is trained on the training images. A resumed run does not call it.
        """
        prepare_parts(self, data)

    def check(self, batch_size: int) -> None:
        """Raises ValueError where the settings of the run cannot work for this method."""
        if batch_size < 1:
            raise ValueError(f"`batch_size={batch_size}` must be at least 1")

    def generators(self) -> list[Generator]:
        """Every generator in here (the trained one, teacher, reference): a step's cost is counted in their calls."""
        return [part for part in self.modules() if isinstance(part, Generator)]

    def ramp(self, num_steps: int, delay: int = 0) -> float:
        """Rises from 0 to 1 over `num_steps` steps, after `delay` steps at 0."""
        return min(max(self.step + 1 - delay, 0) / max(num_steps, 1), 1.0)

    def log(self, **values: Tensor | float) -> None:
        """Keeps statistics of this step for the log (detached; the trainer averages and writes them)."""
        self.statistics.update({name: torch.as_tensor(value).detach() for name, value in values.items()})


def check_not_negative(**settings: float) -> None:
    """Raises ValueError for a setting below 0."""
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"`{name}={value}` must be 0 or more")


def prepare_parts(module: nn.Module, data: ImageData) -> None:
    """Calls `prepare(images, labels)` of the outermost parts that have it, with `images_to_learn`.

    No image is read for a part whose `needs_images` is False.
    """
    for part in module.children():
        if not getattr(part, "needs_images", True):
            continue
        if callable(getattr(part, "prepare", None)):
            part.prepare(*images_to_learn(data))  # type: ignore[operator]
        else:
            prepare_parts(part, data)


def frozen_copy(module: Module) -> Module:
    """A copy that never learns (teacher, reference): eval mode, no gradient; what is frozen already is shared."""
    copy = copy_of_trained(module).eval()
    copy.requires_grad_(False)
    return copy
