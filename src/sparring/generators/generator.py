"""What is trained, kept and shipped, as the trainer sees it: a denoiser, a generator of a GAN, …"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, device, nn

from sparring.data import Batch, ImageData
from sparring.generators.sampling import Sampling


class Generator(nn.Module, ABC):
    """Makes images [B, C, H, W], nominally in [-1, 1], and is what a run trains, averages, samples and saves.

    A subclass writes the abstract methods. What it cannot do (gradient checkpointing, sharding, an error on held-out
    images) it leaves out; the settings that ask for it are then refused in one line.

    Attributes:
        images_seen: rows that passed through the network; the cost of training is counted in them.
        ancestors: fingerprints of the weights that it was trained from, newest first, as far as known; see `lineage`.
        path: folder from which `reread_tensors` come.
        makes_images: whether it can be sampled; what only guides others makes none.
    """

    path: str = ""
    ancestors: Sequence[str] = ()
    makes_images: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.images_seen = 0

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @property
    def takes_labels(self) -> bool:
        """Whether it is class-conditional."""
        return False

    @property
    def captioned(self) -> bool:
        """Whether it is conditioned on captions."""
        return False

    @property
    def takes_source(self) -> bool:
        """Whether it is conditioned on another image, the source."""
        return False

    @property
    def num_classes(self) -> int | None:
        """How many classes it was built for, if it says so."""
        return None

    @property
    def takes_guidance(self) -> bool:
        """Whether it can be asked without its condition, which classifier-free guidance needs."""
        return False

    def classes_drawn(self, sampling: Sampling) -> list[int] | None:
        """The class of each of its n images, chosen or in turn; None: they have none."""
        return None

    @property
    def device(self) -> device:
        """Where its weights are."""
        return next(self.parameters()).device

    # -- training ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, data: ImageData) -> None:
        """Raises ValueError if it cannot be trained on these images, labels or captions."""

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Called once before the first step of a new run: what is learned from the images before training."""

    def check_batch(self, seen: int, total: int) -> None:
        """Raises ValueError if it cannot be trained on batches of `total` images, of which it sees `seen` at once."""

    @abstractmethod
    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Makes images (C, H, W) from now on; raises ValueError if it cannot."""

    def after_update(self) -> None:
        """Called after each update of its weights; by default nothing happens."""

    def copied(self) -> set[str]:
        """Names of the tensors that its average takes as they are, in place of their mean; by default none."""
        return set()

    def embed(self, batch: Batch) -> Batch:
        """The batch as the networks take it, once a step: latents, embedded captions. By default the batch itself."""
        return batch

    def error(self, batch: Batch) -> Tensor:
        """[B] error on an embedded batch of held-out images, lower is better; what `keep_best` compares.

        Raises:
            ValueError: there is no such number for this kind of generator.
        """
        raise ValueError(f"`keep_best`: {type(self).__name__} has no error on held-out images to compare; leave it out")

    def networks(self) -> list[nn.Module]:
        """What is called for each pass, and compiled by `compile`."""
        return [self]

    def enable_gradient_checkpointing(self) -> None:
        """Computes activations again in the backward pass, to save memory."""
        raise ValueError(f"`gradient_checkpointing`: {type(self).__name__} has none; leave it out")

    def network_to_shard(self) -> nn.Module:
        """The network that is spread over the processes; every pass goes through its `forward`."""
        raise ValueError(f"`sharding`: {type(self).__name__} cannot be spread over processes; leave it out")

    def reread_tensors(self) -> dict[str, Tensor]:
        """What is frozen, by name, and comes from `path` again when a run goes on: no run keeps a copy of it."""
        return {}

    # -- samples -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def plan(self, steps: int, scheduler: str | None = None) -> tuple[str, int]:
        """The scheduler's name and the network calls per image (NFE) of `sample(n, steps, scheduler=scheduler)`."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises ValueError if steps, scheduler and what is added to it cannot go together; nothing is drawn."""
        self.plan(sampling.steps, sampling.scheduler)

    @abstractmethod
    def draw(self, sampling: Sampling) -> Iterator[Tensor]:
        """The images of a sampling, a batch [b, C, H, W] at a time; what `batches` and `sample` call.

        Raises:
            ValueError: a setting that this generator does not have.
        """

    def batches(self, n: int, steps: int = 10, **settings: Any) -> Iterator[Tensor]:
        """The images of `sample` with the same settings, a batch [b, C, H, W] at a time; none of them is kept here."""
        return self.draw(Sampling(n=n, steps=steps, **settings))

    def sample(self, n: int, steps: int = 10, **settings: Any) -> Tensor:
        """n images [n, C, H, W] in [-1, 1] (clamped), the same for equal settings.

        Args:
            n: number of images.
            steps: sampler steps.
            settings: `scheduler`, `labels`, `prompts`, `guidance`, `using`, `seed` …: those of `Sampling`.

        Raises:
            ValueError: n or steps below 1, or a setting that this generator does not have.
        """
        return torch.cat(list(self.batches(n, steps, **settings)))

    @abstractmethod
    def grid(self, data: ImageData, n: int, seed: int, *, scheduler: str, steps: int) -> Tensor:
        """n images for the grids of a run, always from the same latents: class after class, or of captions of the data.

        Args:
            data: what the run trains on.
            n: number of images.
            seed: of the run.
            scheduler: the method's sampler.
            steps: its sampler steps.
        """

    # -- folders -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes it as a folder that `load_generator` opens; an older one there is replaced, its weights atomically.

        Args:
            folder: the folder.
            sampler: name of the scheduler to ship.

        Returns:
            False if there is no such folder for its network; nothing is written then.
        """

    def adapters(self) -> dict[str, Tensor]:
        """Adapters under the names by which diffusers' `load_lora_weights` takes them; empty without."""
        return {}
