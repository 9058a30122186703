"""What students of a bank of pairs share (Diffusion2GAN, GET): noises, and what a trained denoiser makes of each."""

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.data.characters import characters, texts_of
from sparring.generators import Condition, Denoiser, Generator
from sparring.methods.method import Method, frozen_copy
from sparring.methods.own_samples import own_conditions
from sparring.rollout import check_begins_in_noise, deterministic_scheduler


class OnPairs(Method):
    """A student of pairs that are made before the first step and kept in the run.

    Args:
        generator: what is trained.
        teacher: a trained denoiser; a frozen copy of it is kept.
        discriminator: the opponent, or None.
        num_pairs: pairs in the bank, in equal parts of all classes that the teacher takes, or of captions of the data.
        scheduler: the deterministic sampler that makes them.
        num_steps: its steps.

    Raises:
        ValueError: no pairs, or fewer than classes; a sampler that adds noise; a teacher of a source or of a latent z.
    """

    sample_steps = 1

    def __init__(
        self,
        generator: Generator,
        teacher: Denoiser,
        discriminator: torch.nn.Module | None = None,
        *,
        num_pairs: int,
        scheduler: str,
        num_steps: int,
    ):
        name = type(self).__name__
        if num_pairs < 1:
            raise ValueError(f"`num_pairs={num_pairs}` must be at least 1: it learns from the teacher's own images")
        if teacher.takes_source:
            raise ValueError(f"{name} keeps no source images with its pairs: start from a denoiser without them")
        check_begins_in_noise(teacher)
        deterministic_scheduler(teacher, scheduler, num_steps, 1)  # can it walk them?
        super().__init__(generator, discriminator)
        self.teacher = frozen_copy(teacher)
        self.num_pairs, self.scheduler, self.num_steps = num_pairs, scheduler, num_steps
        self.noises = torch.nn.Parameter(torch.empty(0), requires_grad=False)  # of the bank, class after class
        self.images = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self.captions = torch.nn.Parameter(torch.empty(0, dtype=torch.int64), requires_grad=False)

    def size_for(self, data: ImageData) -> None:
        if self.teacher.takes_labels or self.teacher.text is not None:
            self.teacher.check_condition(data)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        self.size_for(data)
        teacher, n = self.teacher, self.num_pairs
        device = self.noises.device
        draws = Draws(seed, phase="pairs", device=device)
        told: Tensor | list[str] | None = None
        if teacher.text is not None:
            told = own_conditions(teacher, data, n, draws)
            assert isinstance(told, list)
            self.captions.data = characters(told).to(device)
        elif teacher.takes_labels:
            classes = teacher.classes_of_data
            each = n // classes
            if each == 0:
                raise ValueError(f"`num_pairs={n}`: give one at least for each of {classes} classes")
            told = torch.arange(classes, device=device).repeat_interleave(each)
            n = len(told)
        noises = draws.normal((n, *teacher.latent_shape(data.image_shape)))
        sampler = teacher.process.scheduler(self.scheduler, teacher.prediction)
        self.images.data = teacher.generate(sampler, self.num_steps, latents=noises, condition=told)
        self.noises.data = noises

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor, Condition]:
        """Noises z [B, c, h, w], the teacher's images of them, and what it made these of, drawn from the bank.

        They are of the classes of the batch, and of captions of their own.
        """
        if not len(self.noises):
            raise ValueError(f"{type(self).__name__} has no pairs yet: call `prepare(data)` before the first step")
        if self.teacher.takes_labels:
            each = len(self.noises) // self.teacher.classes_of_data
            index = batch.condition * each + batch.draws.integers(each, (len(batch),))
        else:
            index = batch.draws.integers(len(self.noises), (len(batch),))
        z, y = self.noises[index].to(batch.x_0), self.images[index].to(batch.x_0)
        told = batch.condition
        if self.teacher.text is not None:
            told = self.teacher.condition(texts_of(self.captions[index]), z)
        return z, y, told
